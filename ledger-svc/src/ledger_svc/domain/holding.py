"""The commands that open a hold and that end it without a charge."""

from __future__ import annotations

from dataclasses import replace

from ledger_svc.domain.accounts import SPENDABLE, admit_amount
from ledger_svc.domain.book import Book, Needs
from ledger_svc.domain.charges import Attempt
from ledger_svc.domain.command import Command, check_same, closed_error, find_hold, fingerprint_of, wallet
from ledger_svc.domain.expiring import ADMITTED, expire_credit
from ledger_svc.domain.holds import Hold, HoldState
from ledger_svc.domain.keys import admit_key
from ledger_svc.domain.values import lazy, value
from meshkit.principal import Principal


@value(frozen=True)
class Reserve(Command[Hold]):
    """Holds an amount for a request. Refusals: see ``decide``."""

    principal: Principal
    request_id: str
    amount_nano_usd: int
    ttl_ms: int
    model: str
    hold_id: str
    now_ms: int
    amount_tokens: int = 0

    @property
    def needs(self) -> Needs:
        """Balance, key, caps, and the hold that may be there already."""
        payer = self.principal
        return Needs(payer.org_id, ADMITTED, self.request_id, payer.key_id, payer.project_id, at_ms=self.now_ms)

    @lazy
    def fingerprint(self) -> str:
        """Of everything that the caller decides."""
        payer = self.principal
        content = (payer.project_id, payer.key_id, self.amount_nano_usd, self.ttl_ms, self.model, self.amount_tokens)
        return fingerprint_of("reserve", *content)

    def decide(self, book: Book) -> Hold:
        """Raises:
        IdempotencyConflict, HoldClosed, InvalidApiKey, ApiKeyRevoked, ModelNotAllowed, InsufficientBalance,
        BudgetExceeded, InvalidRequest (a cap in tokens applies and nobody said how many).
        """
        payer = self.principal
        name = (payer.org_id, self.request_id)
        existing = book.holds.get(name)
        if existing is not None:
            if existing.state is not HoldState.OPEN:
                raise closed_error(book, existing)
            check_same(existing.fingerprint, self.fingerprint, self.request_id)
            return existing
        admit_key(book.keys.get(payer.key_id), payer, self.model, self.now_ms)
        expire_credit(book, payer.org_id, self.now_ms)
        spend = admit_amount(self.amount_nano_usd, **wallet(book, payer.org_id))
        hold = Hold(
            hold_id=self.hold_id,
            org_id=payer.org_id,
            project_id=payer.project_id,
            key_id=payer.key_id,
            request_id=self.request_id,
            model=self.model,
            amount_nano_usd=self.amount_nano_usd,
            from_promo_nano_usd=spend.promo_nano_usd,
            from_paid_nano_usd=spend.paid_nano_usd,
            fingerprint=self.fingerprint,
            created_at_ms=self.now_ms,
            expires_at_ms=self.now_ms + self.ttl_ms,
            amount_tokens=self.amount_tokens,
        )
        book.admit(hold)
        book.add_hold(hold)
        return hold


@value(frozen=True)
class Extend(Command[Hold]):
    """Moves the end of an open hold to ``ttl_ms`` from now; never nearer. Again: the same."""

    org_id: str
    request_id: str
    ttl_ms: int
    now_ms: int

    @property
    def needs(self) -> Needs:
        """The hold; the accounts for their lock."""
        return Needs(self.org_id, SPENDABLE, self.request_id)

    def decide(self, book: Book) -> Hold:
        """Raises:
        NotFound, HoldClosed.
        """
        hold = find_hold(book, (self.org_id, self.request_id))
        if hold.state is not HoldState.OPEN:
            raise closed_error(book, hold)
        ends_at_ms = max(hold.expires_at_ms, self.now_ms + self.ttl_ms)
        return hold if ends_at_ms == hold.expires_at_ms else book.update_hold(replace(hold, expires_at_ms=ends_at_ms))


@value(frozen=True)
class Release(Command[int]):
    """Gives a hold back; answers what was held, in nano-USD. Again: the same, and nothing moves."""

    org_id: str
    request_id: str
    reason: str
    attempts: tuple[Attempt, ...]
    now_ms: int

    @property
    def needs(self) -> Needs:
        """The hold, and where it is kept."""
        return Needs(self.org_id, SPENDABLE, self.request_id)

    def decide(self, book: Book) -> int:
        """Raises:
        NotFound, HoldClosed (it was settled).
        """
        name = (self.org_id, self.request_id)
        hold = find_hold(book, name)
        if name in book.receipts:
            raise closed_error(book, hold)
        if not hold.released_at_ms:
            if hold.state is HoldState.OPEN:
                hold = book.close_hold(hold, HoldState.RELEASED, self.now_ms)
            book.update_hold(replace(hold, released_at_ms=self.now_ms, release_reason=self.reason))
            book.add_attempts(hold.hold_id, self.attempts)
        return hold.amount_nano_usd


@value(frozen=True)
class Expire(Command[bool]):
    """Ends a hold whose time has passed. False: it was closed before, or its time has not come."""

    org_id: str
    request_id: str
    now_ms: int

    @property
    def needs(self) -> Needs:
        """The hold, and where it is kept."""
        return Needs(self.org_id, SPENDABLE, self.request_id)

    def decide(self, book: Book) -> bool:
        """Never refuses."""
        hold = book.holds.get((self.org_id, self.request_id))
        if hold is None or hold.state is not HoldState.OPEN or hold.expires_at_ms > self.now_ms:
            return False
        book.close_hold(hold, HoldState.EXPIRED, self.now_ms)
        return True
