"""The command that sets caps, or clears them."""

from __future__ import annotations

from dataclasses import dataclass

from ledger_svc.domain.accounts import SPENDABLE
from ledger_svc.domain.book import Book, Needs
from ledger_svc.domain.caps import Cap, CapPeriod, CapScope, CapUnit
from ledger_svc.domain.command import Command
from ledger_svc.domain.trail import told
from meshkit.principal import OPERATOR, Actor


@dataclass(frozen=True, slots=True)
class CapLimit:
    """One cap of the thing that is spoken of, and its limit in nano-USD or tokens; ``UNLIMITED`` clears it."""

    period: CapPeriod
    unit: CapUnit
    limit: int


@dataclass(frozen=True)
class SetCaps(Command[list[Cap]]):
    """Sets caps of a key, a project or an organisation, all of them or none; gives them in the order of ``limits``.
    Again: the same caps, and nothing changes. What was spent in a period before counts.
    """

    org_id: str
    scope: CapScope
    scope_id: str
    limits: tuple[CapLimit, ...]
    now_ms: int
    actor: Actor = OPERATOR

    alone = True  # the buckets of a new cap are made up from the books by the next command that meets it

    @property
    def needs(self) -> Needs:
        """The accounts for their lock, the caps and their buckets."""
        return Needs(self.org_id, SPENDABLE, scope_id=self.scope_id, at_ms=self.now_ms)

    def decide(self, book: Book) -> list[Cap]:
        """Raises:
        NotFound: no such organisation.
        """
        for kind in SPENDABLE:
            book.account(self.org_id, kind)
        return [self._set(book, wanted) for wanted in self.limits]

    def _set(self, book: Book, wanted: CapLimit) -> Cap:
        known = book.caps.get(self.scope_id, ())
        existing = next((c for c in known if (c.period, c.unit) == (wanted.period, wanted.unit)), None)
        if existing is not None and existing.limit == wanted.limit:
            return existing
        cap = Cap(
            scope_id=self.scope_id,
            period=wanted.period,
            unit=wanted.unit,
            revision=existing.revision + 1 if existing else 1,
            org_id=self.org_id,
            scope=self.scope,
            limit=wanted.limit,
            set_at_ms=self.now_ms,
        )
        if existing is not None:
            for other, name in book.bucket_names(self.needs):
                if other is existing:
                    book.put_bucket(book.buckets[name].bounded_by(wanted.limit))
        book.put_cap(cap)
        self._tell(book, existing, cap)
        return cap

    def _tell(self, book: Book, existing: Cap | None, cap: Cap) -> None:
        before = existing.shown() if existing is not None else {}
        after = cap.shown()
        if not before and not after:
            return  # clearing what was not set is no change
        action = "cap.set" if after else "cap.cleared"
        revision = (cap.period.value, cap.unit.value, str(cap.revision))
        book.tell(
            told(
                self.actor,
                self.org_id,
                self.now_ms,
                action,
                cap.scope_id,
                *(cap.scope_id, *revision),
                before=before,
                after=after,
            )
        )
