"""Transfers and their postings: history that is only ever added to."""

from __future__ import annotations

from enum import Enum

from ledger_svc.domain.values import value


class TransferKind(Enum):
    """Why money moved."""

    CREDIT = "credit"
    SETTLEMENT = "settlement"
    EXPIRY = "expiry"
    REFUND = "refund"
    CORRECTION = "correction"


@value(frozen=True, slots=True)
class Transfer:
    """One movement. ``idem_key`` is unique in the organisation; ``fingerprint`` is of the command that made it."""

    transfer_id: str
    org_id: str
    kind: TransferKind
    idem_key: str
    fingerprint: str
    created_at_ms: int


@value(frozen=True, slots=True)
class Posting:
    """One account's part of a transfer. ``account_version`` counts from 1 without gaps, and
    ``balance_after_nano_usd`` is the balance before it plus ``amount_nano_usd``: a missing or changed posting shows.
    """

    account_id: str
    account_version: int
    transfer_id: str
    amount_nano_usd: int
    balance_after_nano_usd: int
