"""Reading the audit trail, and telling it of what changes outside the ledger."""

from __future__ import annotations

from dataclasses import dataclass

from ledger_svc.domain.cache_actions import CacheDeed, check_deed
from ledger_svc.domain.checkpoints import Checkpoint
from ledger_svc.domain.limits import MAX_TIME_MS, check_range, check_text
from ledger_svc.domain.repricing import REVISED, Repricing, check_repricing
from ledger_svc.domain.trail import TrailEntry
from ledger_svc.service.log import LogService
from ledger_svc.service.paging import check_page_size, page_of, position_of_token
from ledger_svc.service.telling import Telling
from ledger_svc.service.trail_ports import LoggedEntry, TrailFilter, TrailRecords
from meshkit.clock import Clock
from meshkit.ids import MakeId
from meshkit.principal import Actor


@dataclass(frozen=True, slots=True)
class EntryProof:
    """Proves that an entry stands in the log at a checkpoint."""

    entry: LoggedEntry
    checkpoint: Checkpoint
    hashes: list[bytes]


class TrailService:
    """Entries by id and by page, their proofs, and the revisions of the catalog."""

    def __init__(self, records: TrailRecords, log: LogService, *, clock: Clock, make_id: MakeId) -> None:
        self._records = records
        self._log = log
        self._telling = Telling(clock, make_id)

    async def page(self, wanted: TrailFilter, *, page_size: int, page_token: str) -> tuple[list[TrailEntry], str]:
        """Entries, newest first, and the token of the next page ("": there is none).

        Raises:
            InvalidRequest.
        """
        texts = {"org_id": wanted.org_id, "action": wanted.action_prefix, "actor": wanted.actor_id}
        for name, text in (texts | {"subject": wanted.subject}).items():
            check_text(name, text, empty=True)
        for name in ("from_ms", "to_ms"):
            check_range(name, getattr(wanted, name), 0, MAX_TIME_MS)
        size = check_page_size(page_size)
        found = await self._records.entries(wanted, limit=size + 1, before=position_of_token(page_token))
        return page_of(found, size, lambda entry: (entry.created_at_ms, entry.entry_id))

    async def get(self, org_id: str, entry_id: str) -> LoggedEntry:
        """One entry, as signed; ``org_id`` "": of any organisation.

        Raises:
            NotFound: also where it is another organisation's.
        """
        check_text("org_id", org_id, empty=True)
        return await self._records.entry(org_id, check_text("entry_id", entry_id))

    async def prove(self, org_id: str, entry_id: str, tree_size: int) -> EntryProof:
        """Proves an entry in the checkpoint of a size; 0: in the newest, made now if the entry is younger.

        Raises:
            NotFound: no such entry, also where it is another organisation's.
            InvalidRequest: no checkpoint of this size, or one from before the entry.
        """
        found = await self.get(org_id, entry_id)
        checkpoint, hashes = await self._log.path(found.leaf_index, tree_size)
        return EntryProof(found, checkpoint, hashes)

    async def record_revision(self, repricing: Repricing, *, actor: Actor) -> str:
        """Tells of the catalog's revision in force, once; gives the revision that is told last.

        Raises:
            InvalidRequest.
        """
        check_repricing(repricing)
        entry = self._telling.entry(
            "", actor, REVISED, repricing.revision, before=repricing.before(), after=repricing.after()
        )
        return await self._records.record_revision(repricing.previous_revision, repricing.revision, entry)

    async def record_deed(self, deed: CacheDeed, *, actor: Actor) -> str:
        """Tells of what is about to be done to what the cache keeps. Returns the entry's id.

        Raises:
            InvalidRequest.
        """
        check_deed(deed)
        entry = self._telling.entry(deed.org_id, actor, deed.action.value, deed.subject, after=deed.after())
        await self._records.record(entry)
        return entry.entry_id
