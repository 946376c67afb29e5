"""Records in this process: bounded for each organisation, and over all of them in bytes."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

from cache_svc.service import Held, KeptRecord, RecordBounds, StoreFull
from cache_svc.store.record_position import Position, position_of, text_of
from meshkit.clock import Clock

RECORD_OVERHEAD_BYTES = 200
"""What a record costs besides its bytes: two tuples, three ints, the head of the bytes, and slots in two lists."""
_SWEEP_EVERY_MS = 60_000
_FORGOTTEN_FOR_MS = 24 * 3_600_000
_FIRST: Position = (0, 0)


@dataclass(slots=True)
class _Log:
    """Of one organisation, oldest first. What is before ``start`` is gone; the lists are cut now and then."""

    positions: list[Position] = field(default_factory=list)
    blobs: list[bytes] = field(default_factory=list)
    start: int = 0
    held_bytes: int = 0

    def __len__(self) -> int:
        return len(self.positions) - self.start

    def add(self, position: Position, blob: bytes) -> None:
        self.positions.append(position)
        self.blobs.append(blob)
        self.held_bytes += _size(blob)

    def drop_oldest(self) -> int:
        """The bytes that are free now."""
        size = _size(self.blobs[self.start])
        self.blobs[self.start] = b""
        self.start += 1
        self.held_bytes -= size
        if self.start > len(self):
            del self.positions[: self.start], self.blobs[: self.start]
            self.start = 0
        return size

    @property
    def oldest(self) -> Position:
        return self.positions[self.start]


class MemoryRecords:
    """A ``RecordStore`` for one process. Gone when it ends. ``max_bytes``: of all organisations together; past it the
    oldest record of any goes.
    """

    def __init__(self, bounds: RecordBounds, *, max_bytes: int, clock: Clock) -> None:
        self._bounds = bounds
        self._max_bytes = max_bytes
        self._clock = clock
        self._logs: dict[str, _Log] = {}
        self._forgotten: dict[str, int] = {}
        self._held_bytes = 0
        self._last = _FIRST
        self._sweep_at_ms = 0

    @property
    def held_bytes(self) -> int:
        """Of all organisations, with what the interpreter adds."""
        return self._held_bytes

    async def append(self, org_id: str, blob: bytes, *, asked_at_ms: int) -> bool:
        """See ``RecordStore``."""
        now_ms = self._clock.now_ms()
        self._sweep(now_ms)
        if asked_at_ms <= self._forgotten.get(org_id, -1):
            return False
        if _size(blob) > min(self._bounds.max_bytes, self._max_bytes):
            raise StoreFull(f"a record of {len(blob)} bytes does not fit")
        log = self._logs.setdefault(org_id, _Log())
        self._last = max((now_ms, 0), (self._last[0], self._last[1] + 1))
        log.add(self._last, blob)
        self._held_bytes += _size(blob)
        while len(log) > self._bounds.max_records or log.held_bytes > self._bounds.max_bytes:
            self._held_bytes -= log.drop_oldest()
        while self._held_bytes > self._max_bytes:
            self._drop_oldest_of_all()
        return True

    async def read(self, org_id: str, *, after: str, from_ms: int, limit: int) -> list[KeptRecord]:
        """See ``RecordStore``."""
        beyond = position_of(after) if after else _FIRST
        log = self._live(org_id)
        if log is None:
            return []
        begin = max(log.start, bisect_right(log.positions, max(beyond, (from_ms, -1))))
        return [
            KeptRecord(text_of(position), blob)
            for position, blob in zip(
                log.positions[begin : begin + limit], log.blobs[begin : begin + limit], strict=True
            )
        ]

    async def held(self, org_id: str) -> Held:
        """See ``RecordStore``."""
        log = self._live(org_id)
        if log is None:
            return Held()
        return Held(len(log), log.held_bytes, log.oldest[0], log.positions[-1][0])

    async def forget(self, org_id: str, *, grace_ms: int = 0) -> int:
        """See ``RecordStore``."""
        self._forgotten[org_id] = self._clock.now_ms() + grace_ms
        log = self._logs.pop(org_id, None)
        if log is None:
            return 0
        self._held_bytes -= log.held_bytes
        return len(log)

    def _live(self, org_id: str) -> _Log | None:
        """The organisation's records without those that are too old; None: there are none."""
        log = self._logs.get(org_id)
        if log is None:
            return None
        too_old = (self._clock.now_ms() - self._bounds.ttl_s * 1_000, 0)
        while len(log) and log.oldest < too_old:
            self._held_bytes -= log.drop_oldest()
        if not len(log):
            del self._logs[org_id]
            return None
        return log

    def _sweep(self, now_ms: int) -> None:
        """What is too old goes, also where nobody asks for it."""
        if now_ms < self._sweep_at_ms:
            return
        self._sweep_at_ms = now_ms + _SWEEP_EVERY_MS
        for org_id in list(self._logs):
            self._live(org_id)
        since = now_ms - _FORGOTTEN_FOR_MS
        self._forgotten = {org_id: at for org_id, at in self._forgotten.items() if at >= since}

    def _drop_oldest_of_all(self) -> None:
        org_id, log = min(self._logs.items(), key=lambda item: item[1].oldest)
        self._held_bytes -= log.drop_oldest()
        if not len(log):
            del self._logs[org_id]


def _size(blob: bytes) -> int:
    return len(blob) + RECORD_OVERHEAD_BYTES
