"""The movements of a balance: the postings on a customer's two accounts, each in the order of its own versions.

Postings never change and their versions have no gap, so two versions say exactly which movements a listing has: its
pages are of one moment, though each is read by itself.
"""

from __future__ import annotations

from sqlalchemy import Connection, Select, func, select

from ledger_svc.domain.accounts import SPENDABLE, AccountKind, CreditKind, account_id
from ledger_svc.domain.errors import NotFound
from ledger_svc.domain.journal import TransferKind
from ledger_svc.service.usage_ports import Movement, Span
from ledger_svc.store.database import Database
from ledger_svc.store.tables import ACCOUNT, CORRECTION, POSTING, RECEIPT, TRANSFER

_CREDIT_KINDS = {AccountKind.CUSTOMER_CREDIT: CreditKind.PAID, AccountKind.PROMO: CreditKind.PROMOTIONAL}


class Movements:
    """Implements ``ports.MovementStore``. Pairs are of ``SPENDABLE``, in its order."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def span(self, org_id: str, *, from_ms: int, to_ms: int) -> Span:
        """All that there is now, with the balance before ``from_ms`` and before ``to_ms`` (0: now). The balance of now
        is what the accounts say, and not what their postings add up to.

        Raises:
            NotFound: no such organisation.
        """

        def read(connection: Connection) -> Span:
            query = select(ACCOUNT.c.kind, ACCOUNT.c.version, ACCOUNT.c.posted_nano_usd)
            rows = {row.kind: row for row in connection.execute(query.where(ACCOUNT.c.org_id == org_id))}
            if not rows:
                raise NotFound(f"no organisation {org_id}")
            accounts = [rows[kind.value] for kind in SPENDABLE]
            opening = _posted_before(connection, org_id, from_ms) if from_ms else 0
            posted = sum(account.posted_nano_usd for account in accounts)
            closing = _posted_before(connection, org_id, to_ms) if to_ms else posted
            paid, promo = accounts
            return Span((0, 0), (paid.version, promo.version), opening, closing)

        return await self._database.snapshot(read)

    async def movements(
        self, org_id: str, span: Span, *, from_ms: int, to_ms: int, limit: int
    ) -> tuple[list[Movement], tuple[int, int] | None]:
        """At most ``limit`` of them, and after which versions the rest comes; None: there is none."""

        def read(connection: Connection) -> list[list[Movement]]:
            found = []
            for kind, after, until in zip(SPENDABLE, span.after, span.until, strict=True):
                query = _postings(org_id, kind, after, until, from_ms, to_ms).limit(limit + 1)
                found.append(
                    [
                        Movement(
                            row.transfer_id,
                            row.created_at_ms,
                            TransferKind(row.kind),
                            _CREDIT_KINDS[kind],
                            row.account_version,
                            row.amount_nano_usd,
                            row.charged or row.corrected or "",
                        )
                        for row in connection.execute(query)
                    ]
                )
            return found

        return _merged(await self._database.read(read), span, limit)


def _merged(of_accounts: list[list[Movement]], span: Span, limit: int) -> tuple[list[Movement], tuple[int, int] | None]:
    """By time; those of one account stay in their order, also where a clock was set back."""
    places = [0, 0]
    merged: list[Movement] = []
    while len(merged) < limit:
        heads = [
            (found[at].at_ms, n)
            for n, (found, at) in enumerate(zip(of_accounts, places, strict=True))
            if at < len(found)
        ]
        if not heads:
            return merged, None
        _, first = min(heads)
        merged.append(of_accounts[first][places[first]])
        places[first] += 1
    if all(at == len(found) for found, at in zip(of_accounts, places, strict=True)):
        return merged, None
    after = [
        found[at - 1].version if at else before
        for found, at, before in zip(of_accounts, places, span.after, strict=True)
    ]
    return merged, (after[0], after[1])


def _posted_before(connection: Connection, org_id: str, moment_ms: int) -> int:
    query = (
        select(func.coalesce(func.sum(POSTING.c.amount_nano_usd), 0))
        .select_from(POSTING.join(TRANSFER, TRANSFER.c.transfer_id == POSTING.c.transfer_id))
        .where(
            POSTING.c.account_id.in_([account_id(org_id, kind) for kind in SPENDABLE]),
            TRANSFER.c.created_at_ms < moment_ms,
        )
    )
    return int(connection.execute(query).scalar_one())


def _postings(
    org_id: str, kind: AccountKind, after: int, until: int, from_ms: int, to_ms: int
) -> Select[tuple[str, int, int, int, str, str, str]]:
    query = (
        select(
            POSTING.c.transfer_id,
            POSTING.c.account_version,
            POSTING.c.amount_nano_usd,
            TRANSFER.c.created_at_ms,
            TRANSFER.c.kind,
            RECEIPT.c.receipt_id.label("charged"),
            CORRECTION.c.receipt_id.label("corrected"),
        )
        .select_from(
            POSTING.join(TRANSFER, TRANSFER.c.transfer_id == POSTING.c.transfer_id)
            .outerjoin(RECEIPT, RECEIPT.c.transfer_id == POSTING.c.transfer_id)
            .outerjoin(CORRECTION, CORRECTION.c.transfer_id == POSTING.c.transfer_id)
        )
        .where(
            POSTING.c.account_id == account_id(org_id, kind),
            POSTING.c.account_version > after,
            POSTING.c.account_version <= until,
            TRANSFER.c.created_at_ms >= from_ms,
        )
        .order_by(POSTING.c.account_version)
    )
    return query.where(TRANSFER.c.created_at_ms < to_ms) if to_ms else query
