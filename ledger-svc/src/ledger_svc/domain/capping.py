"""The command that sets a cap, or clears it."""

from __future__ import annotations

from dataclasses import dataclass

from ledger_svc.domain.accounts import SPENDABLE
from ledger_svc.domain.book import Book, Needs
from ledger_svc.domain.caps import Cap, CapPeriod, CapScope, CapUnit
from ledger_svc.domain.command import Command
from ledger_svc.domain.trail import told
from meshkit.principal import OPERATOR, Actor


@dataclass(frozen=True)
class SetCap(Command[Cap]):
    """Sets the cap of a key, a project or an organisation for a period and a unit. ``limit`` in nano-USD or tokens,
    ``UNLIMITED`` clears it. Again: the same cap, and nothing changes. What was spent in the period before counts.
    """

    org_id: str
    scope: CapScope
    scope_id: str
    period: CapPeriod
    unit: CapUnit
    limit: int
    now_ms: int
    actor: Actor = OPERATOR

    alone = True  # the buckets of a new cap are made up from the books by the next command that meets it

    @property
    def needs(self) -> Needs:
        """The accounts for their lock, the cap and its bucket."""
        return Needs(self.org_id, SPENDABLE, scope_id=self.scope_id, at_ms=self.now_ms)

    def decide(self, book: Book) -> Cap:
        """Raises:
        NotFound: no such organisation.
        """
        for kind in SPENDABLE:
            book.account(self.org_id, kind)
        existing = next(
            (c for c in book.caps.get(self.scope_id, ()) if (c.period, c.unit) == (self.period, self.unit)), None
        )
        if existing is not None and existing.limit == self.limit:
            return existing
        cap = Cap(
            scope_id=self.scope_id,
            period=self.period,
            unit=self.unit,
            revision=existing.revision + 1 if existing else 1,
            org_id=self.org_id,
            scope=self.scope,
            limit=self.limit,
            set_at_ms=self.now_ms,
        )
        if existing is not None:
            for known, name in book.bucket_names(self.needs):
                if known is existing:
                    book.put_bucket(book.buckets[name].bounded_by(self.limit))
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
