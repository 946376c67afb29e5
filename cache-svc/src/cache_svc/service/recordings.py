"""Recording requests beside the answering of them, and reading and forgetting the records, over any ``RecordStore``.

A record is made on a best effort: it is queued without waiting, and what does not fit into the queue, or can't be
written, is counted and left out. A request is never slowed or failed by it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import structlog

from cache_svc.domain.recording import Draft, Recording, Unfit, open_recording, record, seal_recording
from cache_svc.service.refusals import BadRequest, StoreFull, StoreUnavailable
from meshkit.clock import Clock

_log = structlog.get_logger(__name__)

MAX_PAGE_RECORDS = 1_000
_PAGE_BYTES = 1_000_000
"""After so many bytes a page is closed, whatever was asked for: a message has its bounds."""
_THREAD_FROM_BYTES = 256 * 1024
"""From this size on a record is made in a thread: it takes longer than the loop should stand still."""
_FLUSH_WITHIN_S = 1.0
_MAX_GRACE_MS = 60_000
_LOG_EVERY_S = 60.0
_MAX_ORGS = 10_000
"""Organisations whose dropped records are counted; past it the count of the one that was longest without any goes."""
_FACTS_MAX_BYTES = 64 * 1024
"""What a record has besides request and answer."""


@dataclass(frozen=True, slots=True)
class KeptRecord:
    """The bytes of a record, and where it stands: what comes after it is asked for by ``position``."""

    position: str
    blob: bytes


@dataclass(frozen=True, slots=True)
class Held:
    """What a store has of one organisation. Times are Unix milliseconds; 0: there is none."""

    records: int = 0
    held_bytes: int = 0
    oldest_at_ms: int = 0
    newest_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class RecordBounds:
    """Of one organisation: the oldest records go when there are more of them, or more bytes, or when they are older."""

    max_records: int
    max_bytes: int
    ttl_s: int


class RecordStore(Protocol):
    """Keeps records by organisation in the order in which they came, within ``RecordBounds``. Every method may raise
    ``StoreUnavailable``. Records may be lost at any time.
    """

    async def append(self, org_id: str, blob: bytes, *, asked_at_ms: int) -> bool:
        """Keeps ``blob`` as the newest. False: the organisation's records were forgotten at ``asked_at_ms`` or later,
        so this one is not kept.

        Raises:
            StoreFull: it is longer than all records may be, or the backend has no room.
        """

    async def read(self, org_id: str, *, after: str, from_ms: int, limit: int) -> list[KeptRecord]:
        """The oldest ``limit`` records that were made at ``from_ms`` or later and stand after the position ``after``;
        empty: from the first on.

        Raises:
            ValueError: ``after`` is no position.
        """

    async def held(self, org_id: str) -> Held:
        """What is kept of the organisation."""

    async def forget(self, org_id: str, *, grace_ms: int = 0) -> int:
        """Forgets all of it, and what is appended later of requests that were asked until ``grace_ms`` from now.
        Returns how many.
        """


class Drop(Enum):
    """Why a request was not recorded."""

    BUSY = "busy"
    AWAY = "away"
    UNFIT = "unfit"


Drops = dict[Drop, int]


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """``max_record_bytes``: the longest record, request and answer together. ``max_waiting_bytes``: of those that wait
    to be written.
    """

    max_record_bytes: int
    max_waiting_bytes: int


class Recorder:
    """Takes records without waiting, and writes them one after the other beside everything else."""

    def __init__(self, store: RecordStore, clock: Clock, limits: QueueLimits) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits
        self._waiting: deque[Draft] = deque()
        self._waiting_bytes = 0
        self._more = asyncio.Event()
        self._written = asyncio.Event()
        self._written.set()
        self._drops: OrderedDict[str, Drops] = OrderedDict()
        self._unlogged = 0
        self._log_again_at_s = 0.0

    def now_ms(self) -> int:
        """The time of a lookup, for ``Asked``."""
        return self._clock.now_ms()

    def note(self, draft: Draft) -> None:
        """Has a request recorded, sometime soon and if possible. Never waits and never raises."""
        size = draft.size
        if size > self._limits.max_record_bytes:
            self._drop(draft.org_id, Drop.UNFIT)
        elif self._waiting_bytes + size > self._limits.max_waiting_bytes:
            self._drop(draft.org_id, Drop.BUSY)
        else:
            self._waiting.append(draft)
            self._waiting_bytes += size
            self._written.clear()
            self._more.set()

    def drops(self, org_id: str) -> Drops:
        """How many requests of an organisation were not recorded, and why, since the process began."""
        return dict.fromkeys(Drop, 0) | self._drops.get(org_id, {})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Recorder]:
        """Writes while the block runs, and for a moment after it what still waits."""
        writing = asyncio.create_task(self._run(), name="write records")
        try:
            yield self
        finally:
            await self.flush()
            writing.cancel()
            with suppress(asyncio.CancelledError):
                await writing

    async def flush(self) -> None:
        """Returns when what was noted has been written or dropped; after a second in any case."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._written.wait(), _FLUSH_WITHIN_S)

    async def _run(self) -> None:
        while True:
            await self._more.wait()
            while self._waiting:
                draft = self._waiting.popleft()
                try:
                    await self._write(draft)
                finally:
                    self._waiting_bytes -= draft.size
            self._more.clear()
            self._written.set()

    async def _write(self, draft: Draft) -> None:
        try:
            if draft.size > _THREAD_FROM_BYTES:
                blob = await asyncio.to_thread(self._sealed, draft)
            else:
                blob = self._sealed(draft)
            await self._store.append(draft.org_id, blob, asked_at_ms=draft.asked.at_ms)
        except (Unfit, StoreFull):
            self._drop(draft.org_id, Drop.UNFIT)
        except StoreUnavailable:
            self._drop(draft.org_id, Drop.AWAY)
        except Exception as error:  # noqa: BLE001 - the next ones are to be written whatever this one had
            # Its text and its frames may quote the request.
            _log.error("record_failed", org_id=draft.org_id, kind=type(error).__name__)
            self._drop(draft.org_id, Drop.UNFIT)

    def _sealed(self, draft: Draft) -> bytes:
        made = record(draft)
        if len(made.body) + len(made.answer) > self._limits.max_record_bytes:
            raise Unfit("the record is too long")
        return seal_recording(made)

    def _drop(self, org_id: str, why: Drop) -> None:
        drops = self._drops.setdefault(org_id, dict.fromkeys(Drop, 0))
        drops[why] += 1
        self._drops.move_to_end(org_id)
        if len(self._drops) > _MAX_ORGS:
            self._drops.popitem(last=False)
        self._unlogged += 1
        now_s = self._clock.monotonic_s()
        if now_s >= self._log_again_at_s:
            _log.warning("records_dropped", records=self._unlogged, last_org_id=org_id, last_why=why.value)
            self._unlogged, self._log_again_at_s = 0, now_s + _LOG_EVERY_S


class Recordings:
    """Reading and forgetting."""

    def __init__(self, store: RecordStore, recorder: Recorder, bounds: RecordBounds, limits: QueueLimits) -> None:
        self._store = store
        self._recorder = recorder
        self.bounds = bounds
        self._max_open_bytes = limits.max_record_bytes + _FACTS_MAX_BYTES

    async def page(self, org_id: str, *, after: str, from_ms: int, limit: int) -> tuple[list[Recording], str]:
        """At most ``limit`` records after a position, oldest first, and the position that the next page begins after;
        empty: there is none. What this process noted before is among them.

        Raises:
            BadRequest: no organisation, no such position, or a limit that is none.
            StoreUnavailable: the backend is away.
        """
        _require_org(org_id)
        if not 1 <= limit <= MAX_PAGE_RECORDS:
            raise BadRequest(f"a page has 1 to {MAX_PAGE_RECORDS} records, not {limit}")
        await self._recorder.flush()
        found: list[Recording] = []
        read_bytes = 0
        while len(found) < limit and read_bytes < _PAGE_BYTES:
            wanted = min(limit - len(found), 16)
            try:
                kept = await self._store.read(org_id, after=after, from_ms=from_ms, limit=wanted)
            except ValueError as error:
                raise BadRequest("the page token is not one that a page gave") from error
            for one in kept:
                recording = self._opened(org_id, one)
                if recording is not None:
                    found.append(recording)
                    read_bytes += len(recording.body) + len(recording.answer)
                after = one.position
                if read_bytes >= _PAGE_BYTES:
                    return found, after
            if len(kept) < wanted:
                return found, ""
        return found, after

    def _opened(self, org_id: str, kept: KeptRecord) -> Recording | None:
        try:
            return open_recording(kept.blob, max_bytes=self._max_open_bytes)
        except Unfit as error:
            _log.error("record_unreadable", org_id=org_id, position=kept.position, why=str(error))
            return None

    async def held(self, org_id: str) -> tuple[Held, Drops]:
        """What is kept of an organisation, and what was left out.

        Raises:
            BadRequest: no organisation.
            StoreUnavailable: the backend is away.
        """
        _require_org(org_id)
        await self._recorder.flush()
        return await self._store.held(org_id), self._recorder.drops(org_id)

    async def forget(self, org_id: str, *, grace_ms: int = 0) -> int:
        """Forgets all records of an organisation, also of requests that are under way, and of those that are asked
        until ``grace_ms`` from now. Returns how many there were.

        Raises:
            BadRequest: no organisation, or a grace that is none.
            StoreUnavailable: the backend is away, and nothing was forgotten.
        """
        _require_org(org_id)
        if not 0 <= grace_ms <= _MAX_GRACE_MS:
            raise BadRequest(f"grace_ms is {grace_ms}, not 0 to {_MAX_GRACE_MS}")
        forgotten = await self._store.forget(org_id, grace_ms=grace_ms)
        _log.info("recordings_forgotten", org_id=org_id, records=forgotten)
        return forgotten


def _require_org(org_id: str) -> None:
    if not org_id:
        raise BadRequest("org_id is missing")
