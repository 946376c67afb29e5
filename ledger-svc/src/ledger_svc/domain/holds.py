"""A hold: the worst case of a request, kept aside until it is settled, given back, or past its time."""

from __future__ import annotations

from enum import Enum

from ledger_svc.domain.values import value


class HoldState(Enum):
    """A hold leaves OPEN once and for good. A late settlement of an expired hold leaves it EXPIRED; the receipt
    tells.
    """

    OPEN = "open"
    SETTLED = "settled"
    RELEASED = "released"
    EXPIRED = "expired"


@value(frozen=True, slots=True)
class Hold:
    """One hold. ``amount_nano_usd`` = from promotional + from paid credit; ``amount_tokens``: the most tokens that the
    request can use, 0 where nobody said. Times in Unix milliseconds, 0 for not yet.

    ``fingerprint`` is of the command that made it. ``released_at_ms`` is also set where the caller gives back a hold
    that has expired before, so that it can't be settled afterwards.
    """

    hold_id: str
    org_id: str
    project_id: str
    key_id: str
    request_id: str
    model: str
    amount_nano_usd: int
    from_promo_nano_usd: int
    from_paid_nano_usd: int
    fingerprint: str
    created_at_ms: int
    expires_at_ms: int
    state: HoldState = HoldState.OPEN
    closed_at_ms: int = 0
    released_at_ms: int = 0
    release_reason: str = ""
    amount_tokens: int = 0

    def closed(self, state: HoldState, now_ms: int) -> Hold:
        """After its one transition. (``dataclasses.replace`` takes five times as long, at every settlement.)"""
        return Hold(
            self.hold_id,
            self.org_id,
            self.project_id,
            self.key_id,
            self.request_id,
            self.model,
            self.amount_nano_usd,
            self.from_promo_nano_usd,
            self.from_paid_nano_usd,
            self.fingerprint,
            self.created_at_ms,
            self.expires_at_ms,
            state,
            now_ms,
            self.released_at_ms,
            self.release_reason,
            self.amount_tokens,
        )

    def __post_init__(self) -> None:
        assert self.amount_nano_usd == self.from_promo_nano_usd + self.from_paid_nano_usd, self.hold_id
