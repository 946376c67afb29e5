"""What the use cases need of a store. ``ledger_svc.store`` implements these; one conformance suite runs on every
database.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ledger_svc.domain.accounts import Balance
from ledger_svc.domain.cache_policies import CachePolicy
from ledger_svc.domain.caps import Bucket, Cap, CapScope
from ledger_svc.domain.checkpoints import Checkpoint
from ledger_svc.domain.command import Command
from ledger_svc.domain.keys import ApiKey, KeyDigest, KeySecret, KeyStatus
from ledger_svc.domain.lots import CreditLot
from ledger_svc.domain.merkle import Range
from ledger_svc.domain.projects import Organization, Project
from ledger_svc.domain.receipts import Receipt
from ledger_svc.domain.trail import TrailEntry

R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LoggedReceipt:
    """A receipt, as signed (compact JWS), and its place in the log."""

    receipt: Receipt
    jws: str
    leaf_index: int


Sleep = Callable[[float], Awaitable[None]]
"""Waits for so many seconds."""


@dataclass(frozen=True, slots=True, order=True)
class Due:
    """An open hold whose time has passed."""

    expires_at_ms: int
    hold_id: str
    org_id: str
    request_id: str


class Ledger(Protocol):
    """The one way in which money is held or moved."""

    async def execute(self, command: Command[R]) -> R:
        """Decides a command and answers once the decision is durable. The same command may be sent again after any
        failure.

        Raises:
            LedgerError: refused; nothing was written.
            LedgerUnavailable: not decided, or decided and the answer lost; sending it again tells.
        """


EntryOf = Callable[[T], TrailEntry]
"""What to tell of a change, by what the changed thing was before: known only in the transaction that changes it."""

EntryOfChange = Callable[[T, T], TrailEntry]
"""The same, by what it was before and is after."""


@dataclass(frozen=True, slots=True)
class ChangedKey:
    """A key after a change. ``change_seq``: the number of its last change, counted over all keys and organisations; 0:
    none yet.
    """

    key: ApiKey
    change_seq: int


@dataclass(frozen=True, slots=True)
class KeyFilter:
    """Which keys are asked for. ``project_id`` "": of all; ``status`` None: in any, as of ``now_ms``."""

    project_id: str
    status: KeyStatus | None
    now_ms: int


class Directory(Protocol):
    """Organisations, projects and keys. Each change is told in the audit trail, in its own transaction."""

    async def create_organization(self, org_id: str, name: str, entry: TrailEntry) -> None:
        """Makes an organisation with its accounts."""

    async def create_project(self, project: Project, entry: TrailEntry) -> None:
        """Makes a project.

        Raises:
            NotFound: no such organisation.
            InvalidRequest: the organisation has a project of this name.
        """

    async def projects(self, org_id: str, *, limit: int, after: tuple[int, str] | None) -> list[Project]:
        """At most ``limit`` projects, oldest first; ``after``: those younger than this (created_at_ms, project_id)."""

    async def project(self, org_id: str, project_id: str) -> Project:
        """Raises:
        NotFound: also where it is another organisation's.
        """

    async def organization(self, org_id: str) -> Organization:
        """Raises:
        NotFound.
        """

    async def change_project(
        self, org_id: str, project_id: str, change: Callable[[Project], Project], entry_of: EntryOfChange[Project]
    ) -> Project:
        """Changes a project; nothing is told where nothing changes.

        Raises:
            NotFound: also where it is another organisation's.
            InvalidRequest: the organisation has a project of this name.
        """

    async def create_key(self, key: ApiKey, digest: KeyDigest, entry: TrailEntry) -> None:
        """Stores a key with its first secret.

        Raises:
            NotFound: no such project in the organisation.
        """

    async def cache_above(self, org_id: str, project_id: str) -> CachePolicy:
        """What the keys of a project inherit.

        Raises:
            NotFound: also where it is another organisation's.
        """

    async def list_keys(self, org_id: str) -> list[ApiKey]:
        """The keys of an organisation, or of all for "", newest first."""

    async def find_keys(
        self, org_id: str, wanted: KeyFilter, *, limit: int, before: tuple[int, str] | None
    ) -> list[ApiKey]:
        """At most ``limit`` keys, newest first; ``before``: those older than this (created_at_ms, key_id)."""

    async def key(self, org_id: str, key_id: str) -> ApiKey:
        """``org_id`` "": whosever it is.

        Raises:
            NotFound: also where it is another organisation's.
        """

    async def revoke_key(self, key_id: str, org_id: str, entry_of: EntryOf[ApiKey]) -> ChangedKey:
        """Ends a key; from the commit on no command of its is admitted. ``org_id`` "": whosever it is.

        Raises:
            NotFound: no such key in the organisation.
        """

    async def change_key(
        self, key_id: str, org_id: str, change: Callable[[ApiKey], ApiKey], entry_of: EntryOfChange[ApiKey]
    ) -> ChangedKey:
        """Changes a key; nothing is told where nothing changes. ``org_id`` "": whosever it is.

        Raises:
            NotFound: no such key in the organisation.
        """

    async def rotate_key(
        self,
        secret: KeySecret,
        org_id: str,
        rotated: Callable[[ApiKey], ApiKey],
        entry_of: EntryOfChange[ApiKey],
        *,
        overlap_ms: int,
    ) -> ChangedKey:
        """Gives a key a new secret, and those that it has their ends. ``org_id`` "": whosever it is.

        Raises:
            NotFound: no such key in the organisation.
        """

    async def has_scope(self, org_id: str, scope: CapScope, scope_id: str) -> bool:
        """Whether the organisation is that, or has such a project or key."""

    async def find_key(self, digests: Sequence[KeyDigest]) -> tuple[ApiKey, KeySecret] | None:
        """The key that has a secret with one of these digests, and that secret; also where either has ended."""

    async def newest_change(self) -> int:
        """The number of the last change of any key, or of what keys inherit; 0: none yet."""

    async def changes_after(self, change_seq: int) -> list[tuple[str, int]]:
        """(name, change_seq) of what was changed after a change, in the order of the changes. The name is a key's id,
        or ``name_of_organization`` where all its keys inherit the change.
        """


class Records(Protocol):
    """What can be read."""

    async def balance(self, org_id: str) -> Balance:
        """Raises:
        NotFound: no such organisation.
        """

    async def receipts(self, org_id: str, *, limit: int, before: tuple[int, str] | None) -> list[Receipt]:
        """At most ``limit`` receipts, newest first; ``before``: those older than this (created_at_ms, receipt_id)."""

    async def due_holds(self, now_ms: int, *, limit: int, after: Due | None = None) -> list[Due]:
        """At most ``limit`` open holds whose time has passed, the longest overdue first; ``after``: behind this."""

    async def due_credit(self, now_ms: int, *, limit: int) -> list[str]:
        """At most ``limit`` organisations with expired credit that no open hold counts on."""

    async def caps(self, org_id: str, now_ms: int, *, scope_id: str = "") -> list[tuple[Cap, Bucket]]:
        """The caps of an organisation and of what it has, or of one of these, cleared ones too, each with what counts
        for it now.
        """

    async def bucket(self, cap: Cap, now_ms: int) -> Bucket:
        """What counts for a cap in the period of a moment."""

    async def lots(self, org_id: str) -> list[CreditLot]:
        """Credit that has something left, in the order in which it is spent."""

    async def corrected_nano_usd(self, receipt_id: str) -> int:
        """What was given back of a receipt's charge."""


class ReceiptLog(Protocol):
    """The log that every receipt is a leaf of."""

    async def receipt(self, org_id: str, receipt_id: str) -> LoggedReceipt:
        """One receipt; ``org_id`` "": of any organisation.

        Raises:
            NotFound: also where it is another organisation's.
        """

    async def backfill(self) -> int:
        """Gives leaves to receipts from before there was a log; gives their number.

        Raises:
            Standby: another replica is the writer.
        """

    async def newest(self) -> Checkpoint | None:
        """The checkpoint of the largest size; None before the first."""

    async def checkpoint(self, size: int) -> Checkpoint:
        """Raises:
        NotFound: none was signed at this size.
        """

    async def grow(self, now_ms: int) -> Checkpoint | None:
        """Takes leaves into the tree and signs a checkpoint, of an empty log too if it is the first; None where the
        newest has them all. Takes a bounded number at once: call it until it gives None.
        """

    async def proof(self, ranges: Sequence[Range]) -> list[bytes]:
        """The hashes of ranges of leaves, all within the newest checkpoint."""
