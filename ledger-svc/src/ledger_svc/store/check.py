"""Examines a whole ledger, rule by rule: how much was looked at, and where each rule is broken first.

The same rules as ``store.audit``, and those that need more than the books: a clock, and the keys of the log. Memory is
bounded, whatever the ledger holds: the database finds the rows, and what is hashed or decoded comes in pages.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, Select, Table, func, select

from ledger_svc.domain.signing import PublicKeys
from ledger_svc.store import log_audit, receipt_audit, trail_audit
from ledger_svc.store.audit import COLUMNS, MAX_VIOLATIONS_PER_RULE, RULES, Violation, receipts_unlike_their_columns
from ledger_svc.store.hold_audit import IN_TIME, overdue_holds
from ledger_svc.store.log_audit import Finding, log_findings
from ledger_svc.store.tables import AUDIT_LOG, CHECKPOINT, LOG_LEAF, LOG_TILE, RECEIPT, RESERVATION, USAGE_SUM
from ledger_svc.store.usage_audit import SUMMED, sums_unlike_receipts

_LOG_RULES = {
    log_audit.GAPLESS: LOG_LEAF,
    log_audit.HASHED: LOG_LEAF,
    log_audit.TILED: LOG_TILE,
    log_audit.SIGNED: CHECKPOINT,
}
_NO_KEYS = "no keys were given"


@dataclass(frozen=True, slots=True)
class Terms:
    """What a check needs to know that the books do not say.

    ``overdue_before_ms``: an open hold whose time was over then is a break; None leaves that rule out, for a ledger
    that nobody sweeps. ``keys``: the public keys of the log; None leaves the signatures out.
    """

    overdue_before_ms: int | None = None
    keys: PublicKeys | None = None


@dataclass(frozen=True, slots=True)
class Ruling:
    """What became of one rule. ``checked``: rows of ``table`` that it was held against. ``breaks``: the first ones, at
    most ``MAX_VIOLATIONS_PER_RULE``. ``left_out``: why it was not checked, "" where it was.
    """

    rule: str
    table: str
    checked: int
    breaks: tuple[Violation, ...] = ()
    left_out: str = ""

    @property
    def holds(self) -> bool:
        """Whether nothing breaks it."""
        return not self.breaks


def examine(connection: Connection, terms: Terms) -> Iterator[Ruling]:
    """Every rule, the cheap ones first. The connection must be in a transaction that sees one state."""
    rows = _Rows(connection)
    for rule, query in RULES.items():
        yield rows.ruling(rule, _subject(query), _broken(connection, rule, query))
    if terms.overdue_before_ms is None:
        yield Ruling(IN_TIME, RESERVATION.name, 0, left_out="no ledger runs that would sweep")
    else:
        yield rows.ruling(IN_TIME, RESERVATION, _broken(connection, IN_TIME, overdue_holds(terms.overdue_before_ms)))
    yield rows.ruling(COLUMNS, RECEIPT, receipts_unlike_their_columns(connection))
    charged = receipt_audit.receipts_charged_wrongly(connection)
    yield rows.ruling(receipt_audit.CHARGED, RECEIPT, _violations(charged))
    unlike = trail_audit.entries_unlike_their_columns(connection)
    yield rows.ruling(trail_audit.TRAIL_COLUMNS, AUDIT_LOG, _violations(unlike))
    yield rows.ruling(SUMMED, USAGE_SUM, _violations(sums_unlike_receipts(connection)))
    breaks = _first_by_rule(log_findings(connection))
    for rule, table in _LOG_RULES.items():
        yield rows.ruling(rule, table, breaks[rule])
    yield from _signatures(connection, rows, terms.keys)


def _signatures(connection: Connection, rows: _Rows, keys: PublicKeys | None) -> Iterator[Ruling]:
    for rule, table, find in (
        (receipt_audit.ATTESTED, CHECKPOINT, receipt_audit.checkpoints_signed_wrongly),
        (receipt_audit.SEALED, LOG_LEAF, receipt_audit.receipts_signed_wrongly),
        (trail_audit.TRAIL_SEALED, AUDIT_LOG, trail_audit.entries_signed_wrongly),
    ):
        if keys is None:
            yield Ruling(rule, table.name, 0, left_out=_NO_KEYS)
        else:
            yield rows.ruling(rule, table, _violations(find(connection, keys)))


class _Rows:
    """Counts each table once, and takes the first breaks."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._counts: dict[str, int] = {}

    def ruling(self, rule: str, table: Table, breaks: Iterable[Violation]) -> Ruling:
        if table.name not in self._counts:
            counted = select(func.count()).select_from(table)
            self._counts[table.name] = self._connection.execute(counted).scalar_one()
        first = tuple(violation for _, violation in zip(range(MAX_VIOLATIONS_PER_RULE), breaks, strict=False))
        return Ruling(rule, table.name, self._counts[table.name], first)


def _subject(query: Select[*tuple[object, ...]]) -> Table:
    """The table whose rows the query names: that of its first column, whatever it was derived through."""
    (column,) = next(iter(query.selected_columns)).base_columns
    table = column.table
    assert isinstance(table, Table), column
    return table


def _broken(connection: Connection, rule: str, query: Select[*tuple[object, ...]]) -> Iterator[Violation]:
    ordered = query.order_by(next(iter(query.selected_columns)))
    for row in connection.execute(ordered.limit(MAX_VIOLATIONS_PER_RULE)):
        where, *facts = row._mapping.items()
        yield Violation(rule, str(where[1]), ", ".join(f"{name} {value}" for name, value in facts))


def _violations(findings: Iterable[Finding]) -> Iterator[Violation]:
    return (Violation(*finding) for finding in findings)


def _first_by_rule(findings: Iterable[Finding]) -> defaultdict[str, list[Violation]]:
    """A log that is wrong throughout has a finding for each leaf: only the first of each rule are kept."""
    found: defaultdict[str, list[Violation]] = defaultdict(list)
    for violation in _violations(findings):
        if len(found[violation.rule]) < MAX_VIOLATIONS_PER_RULE:
            found[violation.rule].append(violation)
    return found
