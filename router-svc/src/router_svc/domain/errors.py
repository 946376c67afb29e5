"""Why the router refuses or fails. ``metadata`` travels to the caller beside the message."""

from __future__ import annotations

from collections.abc import Mapping


class RouterError(Exception):
    """What all refusals and failures of the router have in common."""

    def __init__(self, message: str, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.metadata = dict(metadata or {})


class InvalidRequest(RouterError):
    """The request is not what the API takes. ``param``: the field at fault."""

    def __init__(self, message: str, param: str = "") -> None:
        super().__init__(message, {"param": param} if param else None)


class ModelNotFound(RouterError):
    """The model is not in the catalog."""


class PriceUnknown(RouterError):
    """Every offer of the model lacks a price, so what the request would cost can't be held."""


class NoSource(RouterError):
    """No source can take the request; ``metadata`` says for each offer why."""


class CatalogUnavailable(RouterError):
    """No snapshot of the catalog has arrived yet."""


class RouterBusy(RouterError):
    """As many calls as the router allows are under way."""


class DuplicateRequest(RouterError):
    """A call with the same request id is under way."""


class UpstreamFailed(RouterError):
    """Every source that could take the request failed, or the one that answered broke off."""


class UpstreamRejected(RouterError):
    """The source refused the request itself; its message and ``param`` are passed on."""


class ProviderKeyRejected(RouterError):
    """The source refused the key that the organisation brought for it; ``metadata["source_id"]`` names the source."""


class UpstreamRateLimited(RouterError):
    """Every source that could take the request said that it is being called too often."""


class DeadlineExceeded(RouterError):
    """The answer did not end in the time that a call may take."""


class ClientStalled(RouterError):
    """The client stopped reading for longer than the router keeps an answer waiting."""


class LedgerUnavailable(RouterError):
    """The ledger can't be reached, or did not say in time; the same command may be sent again."""


class LedgerRefused(RouterError):
    """The ledger said no. ``refusal`` is its own error, which the caller gets as it is."""

    def __init__(self, refusal: Exception) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


class HoldUnknown(LedgerRefused):
    """There is no open hold to release: it was never made, or is closed already."""


class HoldClosed(LedgerRefused):
    """The request id has had its hold. ``state``: "settled", "released" or "expired"; ``receipt_id``: where settled."""

    def __init__(self, refusal: Exception, *, state: str, receipt_id: str) -> None:
        super().__init__(refusal)
        self.state = state
        self.receipt_id = receipt_id


class FlightLost(RouterError):
    """The caller leads the flight of its request no longer."""


class CacheUnavailable(RouterError):
    """The cache can't be reached, or refused."""
