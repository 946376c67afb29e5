"""Entries in this process: least recently used first out, bounded in bytes."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Sequence

from cache_svc.domain.fill import Claim
from cache_svc.service import Found, NewEpoch, StoreFull, StoreUsage
from meshkit.clock import Clock

ENTRY_OVERHEAD_BYTES = 200
"""What an entry costs besides its bytes and its address: the node and slot of the ordered dict, a tuple and a float
(tracemalloc on CPython 3.11 says 155 to 196, by how full the dict is)."""
MAX_EPOCHS = 100_000
"""Epochs kept. Past it all entries go, which makes forgetting the epochs safe."""


class MemoryStore:
    """An ``EntryStore`` for one process. A purge here is seen by no other process."""

    def __init__(self, *, max_bytes: int, clock: Clock, new_epoch: NewEpoch, max_epochs: int = MAX_EPOCHS) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._new_epoch = new_epoch
        self._max_epochs = max_epochs
        self._entries: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()
        self._epochs: dict[str, int] = {}
        self._held_bytes = 0
        self._evictions = 0

    async def find(self, address: bytes, epoch_names: Sequence[str], claim: Claim | None = None) -> Found:
        """The bytes at ``address`` and the epochs in force. A claim is made elsewhere, at no cost in one process."""
        del claim
        epochs = await self.epochs(epoch_names)
        kept = self._entries.get(address)
        if kept is None:
            return Found(epochs, None)
        blob, expires_at_s = kept
        if self._clock.monotonic_s() >= expires_at_s:
            self._drop(address)
            return Found(epochs, None)
        self._entries.move_to_end(address)
        return Found(epochs, blob)

    async def epochs(self, epoch_names: Sequence[str]) -> tuple[int, ...]:
        """The epochs in force."""
        missing = [name for name in epoch_names if name not in self._epochs]
        if len(self._epochs) + len(missing) > self._max_epochs:
            self._entries.clear()
            self._epochs.clear()
            self._held_bytes = 0
            missing = list(epoch_names)
        for name in missing:
            self._epochs[name] = self._new_epoch()
        return tuple(self._epochs[name] for name in epoch_names)

    async def put(self, address: bytes, blob: bytes, *, ttl_s: int, epoch_names: Sequence[str]) -> None:
        """Keeps ``blob``; the least recently used go to make room."""
        del epoch_names  # epochs do not expire here
        size = _size(address, blob)
        if size > self._max_bytes:
            raise StoreFull(f"{size} bytes do not fit into {self._max_bytes}")
        if address in self._entries:
            self._drop(address)
        while self._held_bytes + size > self._max_bytes:
            self._drop(next(iter(self._entries)))
            self._evictions += 1
        self._entries[address] = (blob, self._clock.monotonic_s() + ttl_s)
        self._held_bytes += size

    async def delete(self, address: bytes) -> None:
        """Forgets what is at ``address``."""
        if address in self._entries:
            self._drop(address)

    async def raise_epoch(self, epoch_name: str) -> int:
        """A value that the epoch never had."""
        (last,) = await self.epochs([epoch_name])
        self._epochs[epoch_name] = max(last + 1, self._new_epoch())
        return self._epochs[epoch_name]

    async def usage(self) -> StoreUsage:
        """Bytes held, with what the interpreter adds to them."""
        return StoreUsage(self._held_bytes, self._evictions)

    def _drop(self, address: bytes) -> None:
        blob, _ = self._entries.pop(address)
        self._held_bytes -= _size(address, blob)


def _size(address: bytes, blob: bytes) -> int:
    return sys.getsizeof(address) + sys.getsizeof(blob) + ENTRY_OVERHEAD_BYTES
