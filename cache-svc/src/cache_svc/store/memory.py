"""Entries in this process: least recently used first out, bounded in bytes."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from cache_svc.domain.request import Group, group_of
from cache_svc.domain.statistics import Held
from cache_svc.service import Found, NewEpoch, StoreFull, StoreUsage
from meshkit.clock import Clock

ENTRY_OVERHEAD_BYTES = 208
"""What an entry costs besides its bytes and its address: the node and slot of the ordered dict, a tuple and a float
(tracemalloc on CPython 3.11 says 163 to 204, by how full the dict is)."""
MAX_EPOCHS = 100_000
"""Epochs kept. Past it all entries go, which makes forgetting the epochs safe."""


@dataclass(slots=True)
class _Account:
    """Of the entries that one group has."""

    entries: int = 0
    held_bytes: int = 0
    evictions: int = 0


class MemoryStore:
    """An ``EntryStore`` for one process. A purge here is seen by no other process."""

    def __init__(self, *, max_bytes: int, clock: Clock, new_epoch: NewEpoch, max_epochs: int = MAX_EPOCHS) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._new_epoch = new_epoch
        self._max_epochs = max_epochs
        self._entries: OrderedDict[bytes, tuple[bytes, float, _Account]] = OrderedDict()
        self._accounts: dict[tuple[str, ...], _Account] = {}
        self._epochs: dict[str, int] = {}
        self._held_bytes = 0
        self._evictions = 0

    async def find(self, address: bytes, epoch_names: Sequence[str]) -> Found:
        """The bytes at ``address`` and the epochs in force."""
        epochs = await self.epochs(epoch_names)
        kept = self._entries.get(address)
        if kept is None:
            return Found(epochs, None)
        blob, expires_at_s, _ = kept
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
            self._accounts.clear()
            self._epochs.clear()
            self._held_bytes = 0
            missing = list(epoch_names)
        for name in missing:
            self._epochs[name] = self._new_epoch()
        return tuple(self._epochs[name] for name in epoch_names)

    async def put(self, address: bytes, blob: bytes, *, ttl_s: int, epoch_names: Sequence[str]) -> None:
        """Keeps ``blob``; the least recently used go to make room."""
        size = _size(address, blob)
        if size > self._max_bytes:
            raise StoreFull(f"{size} bytes do not fit into {self._max_bytes}")
        if address in self._entries:
            self._drop(address)
        while self._held_bytes + size > self._max_bytes:
            self._drop(next(iter(self._entries))).evictions += 1
            self._evictions += 1
        account = self._account(tuple(epoch_names))
        account.entries += 1
        account.held_bytes += size
        self._entries[address] = (blob, self._clock.monotonic_s() + ttl_s, account)
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
        return StoreUsage(self._held_bytes, self._evictions, len(self._entries))

    async def under(self, prefix: str) -> list[tuple[bytes, bytes]]:
        """Addresses that begin so, with their bytes."""
        whole_bytes = bytes.fromhex(prefix[: len(prefix) // 2 * 2])
        found = [(address, kept[0]) for address, kept in self._entries.items() if address.startswith(whole_bytes)]
        return [(address, blob) for address, blob in found if address.hex().startswith(prefix)]

    async def held(self, org_id: str) -> dict[Group, Held]:
        """What is held of an organisation, entries among it that were purged and not looked up since."""
        by_group = ((group_of(names), account) for names, account in self._accounts.items())
        return {
            group: Held(account.entries, account.held_bytes, account.evictions)
            for group, account in by_group
            if group.org_id == org_id
        }

    def _account(self, epoch_names: tuple[str, ...]) -> _Account:
        account = self._accounts.get(epoch_names)
        if account is None:
            if len(self._accounts) >= self._max_epochs:
                self._accounts = {names: kept for names, kept in self._accounts.items() if kept.entries}
            account = self._accounts[epoch_names] = _Account()
        return account

    def _drop(self, address: bytes) -> _Account:
        blob, _, account = self._entries.pop(address)
        size = _size(address, blob)
        self._held_bytes -= size
        account.entries -= 1
        account.held_bytes -= size
        return account


def _size(address: bytes, blob: bytes) -> int:
    return sys.getsizeof(address) + sys.getsizeof(blob) + ENTRY_OVERHEAD_BYTES
