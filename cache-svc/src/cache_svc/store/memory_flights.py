"""Flights in this process, bounded in bytes: those that nobody leads make room, least recently changed first."""

from __future__ import annotations

import asyncio
import sys
from collections import OrderedDict
from dataclasses import dataclass

from cache_svc.service import Kept, StoreFull
from cache_svc.store.memory import ENTRY_OVERHEAD_BYTES
from meshkit.clock import Clock

_VERSION_BYTES = 8
_SWEPT_A_SWAP = 4


@dataclass(frozen=True, slots=True)
class _Entry:
    kept: Kept
    expires_at_s: float
    pinned_until_ms: int
    size: int


class MemoryFlights:
    """A ``FlightStore`` for one process. Gone when it ends; what is led stays as long as it is led."""

    def __init__(self, *, max_bytes: int, clock: Clock) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._waiting: dict[bytes, set[asyncio.Future[None]]] = {}
        self._held_bytes = 0
        self._changes = 0

    @property
    def held_bytes(self) -> int:
        """With names and what the interpreter adds."""
        return self._held_bytes

    async def load(self, name: bytes) -> Kept | None:
        """What is under ``name``."""
        entry = self._live(name)
        return entry.kept if entry else None

    async def swap(
        self, name: bytes, version: bytes | None, blob: bytes, *, ttl_s: int, pinned_until_ms: int = 0
    ) -> bool:
        """See ``FlightStore``."""
        self.sweep(_SWEPT_A_SWAP)
        entry = self._live(name)
        if (entry.kept.version if entry else None) != version:
            return False
        self._changes += 1
        kept = Kept(self._changes.to_bytes(_VERSION_BYTES, "big"), blob)
        size = sys.getsizeof(name) + sys.getsizeof(blob) + 2 * ENTRY_OVERHEAD_BYTES
        self._make_room(size - (entry.size if entry else 0), keep=name)
        if entry:
            self._drop(name)
        self._entries[name] = _Entry(kept, self._clock.monotonic_s() + ttl_s, pinned_until_ms, size)
        self._held_bytes += size
        for waiting in self._waiting.pop(name, ()):
            if not waiting.done():
                waiting.set_result(None)
        return True

    async def changed(self, name: bytes, version: bytes, within_s: float) -> None:
        """At once when it changes."""
        entry = self._live(name)
        if entry is None or entry.kept.version != version:
            return
        waiting = asyncio.get_running_loop().create_future()
        of_name = self._waiting.setdefault(name, set())
        of_name.add(waiting)
        try:
            await asyncio.wait({waiting}, timeout=within_s)
        finally:
            of_name.discard(waiting)
            if not of_name and self._waiting.get(name) is of_name:
                del self._waiting[name]

    def _live(self, name: bytes) -> _Entry | None:
        entry = self._entries.get(name)
        if entry is not None and self._clock.monotonic_s() >= entry.expires_at_s:
            self._drop(name)
            return None
        return entry

    def sweep(self, at_most: int) -> int:
        """Forgets those that have expired, in the order of their last change, in which they expire. Returns how much
        was left undone of ``at_most``: 0 where there may be more.
        """
        now_s = self._clock.monotonic_s()
        while at_most > 0 and self._entries:
            name, entry = next(iter(self._entries.items()))
            if now_s < entry.expires_at_s:
                break
            self._drop(name)
            at_most -= 1
        return at_most

    def _make_room(self, more_bytes: int, *, keep: bytes) -> None:
        now_ms = self._clock.now_ms()
        while self._held_bytes + more_bytes > self._max_bytes:
            loose = (name for name, entry in self._entries.items() if name != keep and entry.pinned_until_ms <= now_ms)
            oldest = next(loose, None)
            if oldest is None:
                raise StoreFull(f"{more_bytes} bytes more do not fit into {self._max_bytes}")
            self._drop(oldest)

    def _drop(self, name: bytes) -> None:
        self._held_bytes -= self._entries.pop(name).size
