"""Rows to domain values and back."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from sqlalchemy import Row

from ledger_svc.domain import receipts
from ledger_svc.domain.accounts import Account, AccountKind
from ledger_svc.domain.book import AttemptEntry, ReceiptEntry
from ledger_svc.domain.checkpoints import Checkpoint
from ledger_svc.domain.holds import Hold, HoldState
from ledger_svc.domain.journal import Transfer, TransferKind
from ledger_svc.domain.keys import ApiKey
from ledger_svc.domain.merkle import Frontier

Values = dict[str, Any]


def values(entry: Any) -> Values:
    """The fields of a flat dataclass. (dataclasses.asdict copies each value, deeply, at ten times the cost.)"""
    return {field.name: getattr(entry, field.name) for field in fields(entry)}


def account_from_row(row: Row[Any]) -> Account:
    """Of all columns of account."""
    found = dict(row._mapping)
    return Account(**found | {"kind": AccountKind(found["kind"])})


def account_values(account: Account) -> Values:
    """For all columns of account."""
    return values(account) | {"kind": account.kind.value}


def account_change(account: Account) -> Values:
    """What of an account changes, and ``_account_id`` to find it by."""
    return {
        "_account_id": account.account_id,
        "posted_nano_usd": account.posted_nano_usd,
        "reserved_nano_usd": account.reserved_nano_usd,
        "version": account.version,
    }


def hold_from_row(row: Row[Any]) -> Hold:
    """Of all columns of reservation."""
    found = dict(row._mapping)
    return Hold(**found | {"state": HoldState(found["state"])})


def hold_values(hold: Hold) -> Values:
    """For all columns of reservation."""
    return values(hold) | {"state": hold.state.value}


def hold_change(hold: Hold) -> Values:
    """What of a hold changes, and ``_hold_id`` to find it by."""
    return {
        "_hold_id": hold.hold_id,
        "state": hold.state.value,
        "closed_at_ms": hold.closed_at_ms,
        "released_at_ms": hold.released_at_ms,
        "release_reason": hold.release_reason,
    }


def transfer_from_row(row: Row[Any]) -> Transfer:
    """Of all columns of transfer."""
    found = dict(row._mapping)
    return Transfer(**found | {"kind": TransferKind(found["kind"])})


def transfer_values(transfer: Transfer) -> Values:
    """For all columns of transfer."""
    return values(transfer) | {"kind": transfer.kind.value}


def key_from_row(row: Row[Any]) -> ApiKey:
    """Of the columns of api_key that are not its digest."""
    found = dict(row._mapping)
    return ApiKey(**found | {"allowed_models": tuple(json.loads(found["allowed_models"]))})


def key_values(key: ApiKey) -> Values:
    """For the columns of api_key that are not its digest."""
    return values(key) | {"allowed_models": json.dumps(key.allowed_models)}


def attempt_values(entry: AttemptEntry) -> Values:
    """For all columns of attempt."""
    return {"hold_id": entry.hold_id, "ordinal": entry.ordinal, **values(entry.attempt)}


def receipt_values(entry: ReceiptEntry) -> Values:
    """For all columns of receipt."""
    receipt = entry.receipt
    return {
        "receipt_id": receipt.receipt_id,
        "org_id": receipt.org_id,
        "request_id": receipt.request_id,
        "hold_id": receipt.hold_id,
        "transfer_id": entry.transfer_id,
        "project_id": receipt.project_id,
        "key_id": receipt.key_id,
        "served_mode": receipt.facts.served_mode.value,
        "model": receipt.facts.model,
        "source_id": receipt.facts.source_id,
        "held_nano_usd": receipt.held_nano_usd,
        "charged_nano_usd": receipt.charged_nano_usd,
        "saved_nano_usd": receipt.saved_nano_usd,
        "absorbed_nano_usd": receipt.absorbed_nano_usd,
        "created_at_ms": receipt.created_at_ms,
        "fingerprint": entry.fingerprint,
        "document": entry.document,
    }


def receipt_entry_from_row(row: Row[Any]) -> ReceiptEntry:
    """Of the columns document, transfer_id and fingerprint."""
    return ReceiptEntry(receipts.decode(row.document), row.transfer_id, row.fingerprint)


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
