"""Why the ledger refuses. ``str(error)`` is for the caller; ``metadata`` carries its facts as strings."""

from __future__ import annotations

from meshkit.money import format_usd


class LedgerError(Exception):
    """A refusal of the ledger."""

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.metadata = metadata


class InvalidRequest(LedgerError):
    """The request is not what the ledger takes; ``metadata["param"]`` names the field."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(f"{param}: {message}", param=param)


class NotConfigured(InvalidRequest):
    """What was asked for needs a setting that the operator has not made."""

    def __init__(self, message: str) -> None:
        LedgerError.__init__(self, message)


class NotFound(LedgerError):
    """No such organisation, project, key, hold, receipt or checkpoint; also where it is another organisation's."""


class InvalidApiKey(LedgerError):
    """The secret or the key id is not one that was issued to this organisation and project."""


class ApiKeyRevoked(LedgerError):
    """The key was revoked or has expired."""


class ModelNotAllowed(LedgerError):
    """The key's allow-list does not contain the model."""

    def __init__(self, model: str) -> None:
        super().__init__(f"this API key may not use the model {model}", param="model", model=model)


class InsufficientBalance(LedgerError):
    """The balance less what is held does not cover the amount. Metadata in decimal USD."""

    def __init__(
        self,
        *,
        available_nano_usd: int,
        held_nano_usd: int,
        needed_nano_usd: int,
        what: str = "the balance does not cover this request",
    ) -> None:
        available, held, needed = map(format_usd, (available_nano_usd, held_nano_usd, needed_nano_usd))
        super().__init__(
            f"{what}: needed ${needed}, available ${available}, held ${held}",
            available_usd=available,
            held_usd=held,
            needed_usd=needed,
        )


class BudgetExceeded(LedgerError):
    """A cap of the key, project or organisation would be passed. Metadata: scope, scope_id, period, unit; limit, spent,
    held and needed in decimal USD or in tokens; resets_at in ISO 8601.
    """


class IdempotencyConflict(LedgerError):
    """The same request id or idempotency key came with another content."""


class HoldClosed(LedgerError):
    """The hold was closed in another way than asked now. Metadata: its state, and the receipt where it was settled."""

    def __init__(self, request_id: str, state: str, receipt_id: str = "") -> None:
        how = f"was {state}" if state != "expired" else "has expired"
        receipt = {"receipt_id": receipt_id} if receipt_id else {}
        super().__init__(f"the hold of request {request_id} {how}", state=state, **receipt)


class LedgerUnavailable(LedgerError):
    """The ledger can't answer now. The same command may be sent again: it is idempotent."""


class Standby(LedgerUnavailable):
    """Another replica is the writer; this one answers reads and takes over when that one is gone."""

    def __init__(self) -> None:
        super().__init__("this replica of the ledger stands by: send the call to the one that writes", role="standby")


class QueueFull(LedgerUnavailable):
    """So many commands wait that one more would wait too long. It was not recorded."""

    def __init__(self) -> None:
        super().__init__("too many calls wait for the ledger", queue="full")


class PaymentsNotConfigured(LedgerError):
    """This installation has no payment provider, or not the one that a payment was begun with."""


class ProviderRefused(LedgerError):
    """The payment provider refused what it was asked for; the message is what it said of it."""


class ProviderFailed(LedgerError):
    """The payment provider did not answer as it should. With the same idempotency key the call may be sent again."""


class InvalidNotice(InvalidRequest):
    """A notice of a payment provider that is not signed by it, or can't be read."""

    def __init__(self, message: str) -> None:
        super().__init__("notice", message)
