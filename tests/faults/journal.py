"""What clients did and what they were told, to be held against the books."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import orjson
from sqlalchemy import Connection, select

from ledger_svc.store.tables import ACCOUNT, POSTING, RECEIPT, TRANSFER

ROWS_AT_ONCE = 1_000
CUSTOMERS = ("customer_credit", "promo")


@dataclass(frozen=True, slots=True)
class Told:
    """A charge that a client was told of."""

    org_id: str
    receipt_id: str
    charged_nano_usd: int


@dataclass(slots=True)
class Operation:
    """Something that may be charged once, however often it is sent: ``names`` are the traces, or the request ids, under
    which it was. ``receipts``: the ids that its clients were told.
    """

    names: set[str] = field(default_factory=set)
    receipts: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Capped:
    """A charge to an organisation with a daily cap, whose client asked and was told on the same day of UTC."""

    org_id: str
    day: int
    receipt_id: str
    charged_nano_usd: int


@dataclass(slots=True)
class Journal:
    """Everything since the start."""

    operations: list[Operation] = field(default_factory=list)
    told: set[Told] = field(default_factory=set)
    credits: dict[tuple[str, str], int] = field(default_factory=dict)
    """Credit that a client was told is there, in nano-USD, by organisation and idempotency key."""
    caps: dict[str, int] = field(default_factory=dict)
    """What organisations may spend in a day, in nano-USD."""
    capped: set[Capped] = field(default_factory=set)
    changed: list[str] = field(default_factory=list)
    """Who asked for an answer again and got another one."""
    answers: Counter[str] = field(default_factory=Counter)
    """How often each kind of operation ended in which way; for people."""

    @property
    def acknowledged(self) -> int:
        return len(self.told) + len(self.credits)

    def operation(self, *names: str) -> Operation:
        """Another one."""
        begun = Operation(set(names))
        self.operations.append(begun)
        return begun


@dataclass(frozen=True, slots=True)
class Differences:
    """Where the books are not what clients were told. Each a line for people."""

    lost: tuple[str, ...]
    double_charged: tuple[str, ...]
    overspent: tuple[str, ...]


def compare(connection: Connection, journal: Journal) -> Differences:
    """Holds the books against all that clients know."""
    charges: dict[str, tuple[str, int]] = {}
    receipts_of: defaultdict[str, list[str]] = defaultdict(list)
    query = select(
        RECEIPT.c.receipt_id, RECEIPT.c.org_id, RECEIPT.c.request_id, RECEIPT.c.charged_nano_usd, RECEIPT.c.document
    )
    for row in connection.execute(query.execution_options(yield_per=ROWS_AT_ONCE)):
        charges[row.receipt_id] = (row.org_id, row.charged_nano_usd)
        for name in {row.request_id, orjson.loads(row.document)["trace_id"]}:
            receipts_of[name].append(row.receipt_id)
    credits = _credits(connection)
    lost = [
        f"{told} is {charges.get(told.receipt_id)} in the books"
        for told in journal.told
        if charges.get(told.receipt_id) != (told.org_id, told.charged_nano_usd)
    ]
    lost += [f"{who} was answered, and asked again was answered otherwise" for who in journal.changed]
    lost += [
        f"credit {name} of {amount} is {sorted(credits[name])} in the books"
        for name, amount in journal.credits.items()
        if amount not in credits[name]
    ]
    double = [
        f"{sorted(operation.names)} has {found}"
        for operation in journal.operations
        if len(found := sorted(operation.receipts.union(*(receipts_of[name] for name in operation.names)))) > 1
    ]
    double += [f"credit {name} was added {len(amounts)} times" for name, amounts in credits.items() if len(amounts) > 1]
    overspent = [*_overspent(charges.values(), credits), *_over_caps(journal)]
    return Differences(tuple(lost), tuple(double), tuple(overspent))


def _credits(connection: Connection) -> defaultdict[tuple[str, str], list[int]]:
    """What each credit put into a customer's account."""
    query = (
        select(TRANSFER.c.org_id, TRANSFER.c.idem_key, POSTING.c.amount_nano_usd)
        .join(POSTING, POSTING.c.transfer_id == TRANSFER.c.transfer_id)
        .join(ACCOUNT, ACCOUNT.c.account_id == POSTING.c.account_id)
        .where(TRANSFER.c.kind == "credit", ACCOUNT.c.kind.in_(CUSTOMERS))
    )
    found: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for org_id, idem_key, amount in connection.execute(query):
        found[org_id, idem_key.removeprefix("credit:")].append(amount)
    return found


def _overspent(charges: Iterable[tuple[str, int]], credits: dict[tuple[str, str], list[int]]) -> list[str]:
    """Organisations that were charged more than they were ever given."""
    charged, given = Counter[str](), Counter[str]()
    for org_id, amount in charges:
        charged[org_id] += amount
    for (org_id, _), amounts in credits.items():
        given[org_id] += sum(amounts)
    return [
        f"{org_id} was charged {amount} of {given[org_id]}"
        for org_id, amount in charged.items()
        if amount > given[org_id]
    ]


def _over_caps(journal: Journal) -> list[str]:
    """Organisations whose clients were told of more charges in a day than their cap."""
    spent = Counter[tuple[str, int]]()
    for each in journal.capped:
        spent[each.org_id, each.day] += each.charged_nano_usd
    return [
        f"{org_id} was told of charges of {amount} on one day, under a cap of {journal.caps[org_id]}"
        for (org_id, _), amount in spent.items()
        if amount > journal.caps[org_id]
    ]
