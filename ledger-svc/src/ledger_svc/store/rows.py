"""Rows to domain values and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

from sqlalchemy import Row, Table

from ledger_svc.domain import cache_policies, policies, receipts
from ledger_svc.domain.accounts import Account, AccountKind
from ledger_svc.domain.book import AttemptEntry, ReceiptEntry
from ledger_svc.domain.caps import Bucket, Cap, CapPeriod, CapScope, CapUnit
from ledger_svc.domain.charges import Attempt, counted_tokens
from ledger_svc.domain.checkpoints import Checkpoint
from ledger_svc.domain.corrections import Correction
from ledger_svc.domain.holds import Hold, HoldState
from ledger_svc.domain.journal import Posting, Transfer, TransferKind
from ledger_svc.domain.keys import ApiKey
from ledger_svc.domain.lots import CreditLot
from ledger_svc.domain.merkle import Frontier
from ledger_svc.domain.trail import TrailEntry
from ledger_svc.store.tables import API_KEY, CORRECTION, CREDIT_LOT, POSTING, RESERVATION, TRANSFER

Values = dict[str, Any]
Record = Sequence[Any]
"""The values of all columns of a table, in their order."""

KEY_COLUMNS = [column for column in API_KEY.columns if column.name != "change_seq"]
"""What an ``ApiKey`` is made of."""


def values(entry: Any) -> Values:
    """The fields of a flat dataclass. (dataclasses.asdict copies each value, deeply, at ten times the cost.)"""
    return {field.name: getattr(entry, field.name) for field in fields(entry)}


def _record_of(kind: type, table: Table) -> Callable[[Any], Record]:
    """Takes a flat dataclass apart in the order of the table's columns, which must be its fields."""
    names = [column.name for column in table.columns]
    assert names == [field.name for field in fields(kind)], table.name
    return attrgetter(*names)


def account_from_row(row: Record) -> Account:
    """Of all columns of account."""
    account_id, org_id, kind, *numbers = row
    return Account(account_id, org_id, AccountKind(kind), *numbers)


def account_values(account: Account) -> Values:
    """For all columns of account."""
    return values(account) | {"kind": account.kind.value}


def account_change(account: Account) -> Record:
    """The account's id, and what of it changes."""
    return account.account_id, account.posted_nano_usd, account.reserved_nano_usd, account.version


_hold_record = _record_of(Hold, RESERVATION)
_STATE = RESERVATION.columns.keys().index("state")


def hold_from_row(row: Record) -> Hold:
    """Of all columns of reservation."""
    values_before, state, values_after = row[:_STATE], row[_STATE], row[_STATE + 1 :]
    return Hold(*(*values_before, HoldState(state), *values_after))


def hold_record(hold: Hold) -> Record:
    """For reservation."""
    record = _hold_record(hold)
    return (*record[:_STATE], hold.state.value, *record[_STATE + 1 :])


def hold_change(hold: Hold) -> Record:
    """The hold's id, and what of it changes."""
    return (
        hold.hold_id,
        hold.state.value,
        hold.closed_at_ms,
        hold.released_at_ms,
        hold.release_reason,
        hold.expires_at_ms,
    )


def transfer_from_row(row: Record) -> Transfer:
    """Of all columns of transfer."""
    transfer_id, org_id, kind, *rest = row
    return Transfer(transfer_id, org_id, TransferKind(kind), *rest)


_transfer_record = _record_of(Transfer, TRANSFER)


def transfer_record(transfer: Transfer) -> Record:
    """For transfer."""
    transfer_id, org_id, kind, *rest = _transfer_record(transfer)
    return (transfer_id, org_id, kind.value, *rest)


posting_record = _record_of(Posting, POSTING)
"""For posting."""


def key_from_row(row: Record) -> ApiKey:
    """Of ``KEY_COLUMNS``."""
    found = dict(zip(_KEY_NAMES, row, strict=True))
    policy, cache = policies.decode(found["policy"]), cache_policies.decode(found.pop("cache_policy"))
    return ApiKey(
        **found | {"allowed_models": tuple(json.loads(found["allowed_models"])), "policy": policy}, cache=cache
    )


_KEY_NAMES = [column.name for column in KEY_COLUMNS]


def key_values(key: ApiKey) -> Values:
    """For ``KEY_COLUMNS``."""
    own = {name: value for name, value in values(key).items() if name not in {"cache", "cache_above"}}
    return own | {
        "allowed_models": json.dumps(key.allowed_models),
        "policy": policies.encode(key.policy),
        "cache_policy": cache_policies.encode(key.cache),
    }


_attempt_record = attrgetter(*(field.name for field in fields(Attempt)))


def attempt_record(entry: AttemptEntry) -> Record:
    """For attempt."""
    return (entry.hold_id, entry.ordinal, *_attempt_record(entry.attempt))


def receipt_record(entry: ReceiptEntry) -> Record:
    """For receipt."""
    receipt = entry.receipt
    return (
        receipt.receipt_id,
        receipt.org_id,
        receipt.request_id,
        receipt.hold_id,
        entry.transfer_id,
        receipt.project_id,
        receipt.key_id,
        receipt.facts.served_mode.value,
        receipt.facts.model,
        receipt.facts.source_id,
        receipt.held_nano_usd,
        receipt.charged_nano_usd,
        receipt.saved_nano_usd,
        receipt.absorbed_nano_usd,
        receipt.created_at_ms,
        entry.fingerprint,
        entry.document,
        counted_tokens(receipt.facts),
    )


def receipt_entry_from_row(row: Record) -> ReceiptEntry:
    """Of the columns document, transfer_id and fingerprint."""
    document, transfer_id, fingerprint = row
    return ReceiptEntry(receipts.decode(document), transfer_id, fingerprint)


def cap_from_row(row: Record) -> Cap:
    """Of all columns of cap."""
    scope_id, period, unit, revision, org_id, scope, limit, set_at_ms = row
    return Cap(scope_id, CapPeriod(period), CapUnit(unit), revision, org_id, CapScope(scope), limit, set_at_ms)


def cap_record(cap: Cap) -> Record:
    """For cap."""
    return (
        cap.scope_id,
        cap.period.value,
        cap.unit.value,
        cap.revision,
        cap.org_id,
        cap.scope.value,
        cap.limit,
        cap.set_at_ms,
    )


def bucket_from_row(row: Record) -> Bucket:
    """Of all columns of cap_bucket."""
    scope_id, period, unit, *rest = row
    return Bucket(scope_id, CapPeriod(period), CapUnit(unit), *rest)


def bucket_record(bucket: Bucket) -> Record:
    """For cap_bucket."""
    return (*bucket_key(bucket), bucket.ends_at_ms, bucket.org_id, bucket.spent, bucket.reserved, bucket.bound)


def bucket_key(bucket: Bucket) -> Record:
    """The values of its primary key."""
    return bucket.scope_id, bucket.period.value, bucket.unit.value, bucket.starts_at_ms


def bucket_change(bucket: Bucket) -> Record:
    """The bucket's primary key, and what of it changes."""
    return (*bucket_key(bucket), bucket.spent, bucket.reserved, bucket.bound)


_lot_record = _record_of(CreditLot, CREDIT_LOT)
_LOT_KIND = CREDIT_LOT.columns.keys().index("kind")


def lot_from_row(row: Record) -> CreditLot:
    """Of all columns of credit_lot."""
    return CreditLot(*(*row[:_LOT_KIND], AccountKind(row[_LOT_KIND]), *row[_LOT_KIND + 1 :]))


def lot_record(lot: CreditLot) -> Record:
    """For credit_lot."""
    record = _lot_record(lot)
    return (*record[:_LOT_KIND], lot.kind.value, *record[_LOT_KIND + 1 :])


correction_record = _record_of(Correction, CORRECTION)
"""For correction."""


def entry_record(entry: TrailEntry) -> Record:
    """For audit_log."""
    return (
        entry.entry_id,
        entry.org_id,
        entry.created_at_ms,
        entry.actor.kind.value,
        entry.actor.id,
        entry.action,
        entry.subject,
        entry.document(),
    )


def checkpoint_values(checkpoint: Checkpoint) -> Values:
    """For all columns of checkpoint."""
    return {
        "size": checkpoint.size,
        "root_hash": checkpoint.root_hash,
        "frontier": checkpoint.frontier.encode(),
        "note": checkpoint.note,
        "created_at_ms": checkpoint.created_at_ms,
    }


def checkpoint_from_row(row: Row[Any]) -> Checkpoint:
    """Of all columns of checkpoint."""
    return Checkpoint(Frontier.decode(row.size, row.frontier), row.root_hash, row.note, row.created_at_ms)
