"""Entries in this process: least recently used first out, bounded in bytes, gone when they have expired."""

from __future__ import annotations

import asyncio
import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cache_svc.domain.fill import Claim
from cache_svc.domain.request import Group, group_of
from cache_svc.domain.statistics import Held
from cache_svc.service import Ending, Found, NewEpoch, Put, StoreFull, StoreUsage
from meshkit.clock import Clock

ENTRY_OVERHEAD_BYTES = 208
"""What an entry costs besides its bytes and its address: the node and slot of the ordered dict, a tuple and a float
(tracemalloc on CPython 3.11 says 163 to 204, by how full the dict is)."""
PLACE_BYTES = 110
"""What its place among those that expire in the same minute costs, where the set of them is at its emptiest."""
SLOT_OVERHEAD_BYTES = 400
"""What such a minute costs besides."""
EPOCH_OVERHEAD_BYTES = 200
"""What an epoch costs besides its name."""
MAX_EPOCHS = 100_000
"""Epochs kept. Past it, or past a quarter of the bound, all entries go, which makes forgetting the epochs safe."""
_SLOT_S = 60
_SWEPT_A_PUT = 4
_SWEPT_AT_ONCE = 500


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
        self._expiring: dict[int, set[bytes]] = {}  # by slot: the minute at whose end they have expired
        self._swept_slot = self._slot_of(clock.monotonic_s())
        self._epochs: dict[str, int] = {}
        self._epoch_bytes = 0
        self._held_bytes = 0
        self._evictions = 0

    async def find(
        self,
        address: bytes,
        epoch_names: Sequence[str],
        clues: Sequence[bytes] = (),
        claim: Claim | None = None,
    ) -> Found:
        """The bytes at ``address`` and at ``clues``, and the epochs in force. A claim is made elsewhere, at no cost in
        one process.
        """
        del claim
        epochs = await self.epochs(epoch_names)
        return Found(epochs, self._read(address), tuple(self._read(clue) for clue in clues))

    def _read(self, address: bytes) -> bytes | None:
        kept = self._entries.get(address)
        if kept is None:
            return None
        blob, expires_at_s, _ = kept
        if self._clock.monotonic_s() >= expires_at_s:
            self._drop(address)
            return None
        self._entries.move_to_end(address)
        return blob

    async def epochs(self, epoch_names: Sequence[str]) -> tuple[int, ...]:
        """The epochs in force."""
        missing = [name for name in epoch_names if name not in self._epochs]
        if missing:
            self._begin(missing, epoch_names)
        return tuple([self._epochs[name] for name in epoch_names])

    def _begin(self, missing: Sequence[str], epoch_names: Sequence[str]) -> None:
        more_bytes = _epochs_size(missing)
        too_many = len(self._epochs) + len(missing) > self._max_epochs
        if too_many or self._epoch_bytes + more_bytes > self._max_bytes // 4:
            self._evictions += len(self._entries)
            self._entries.clear()
            self._expiring.clear()
            self._accounts.clear()
            self._epochs.clear()
            self._held_bytes = self._epoch_bytes = 0
            missing = epoch_names
            more_bytes = _epochs_size(missing)
        self._epoch_bytes += more_bytes
        while self._entries and self._held_bytes + self._epoch_bytes > self._max_bytes:
            self._evict()
        for name in missing:
            self._epochs[name] = self._new_epoch()

    async def put(
        self,
        address: bytes,
        blob: bytes,
        *,
        ttl_s: int,
        epoch_names: Sequence[str],
        epochs: Sequence[int] = (),
        ending: Ending | None = None,
    ) -> Put:
        """Keeps ``blob``; the least recently used go to make room. A flight is ended elsewhere, at no cost."""
        del ending
        if epochs and tuple(epochs) != await self.epochs(epoch_names):
            return Put(kept=False)
        self.sweep(_SWEPT_A_PUT)
        size = _size(address, blob)
        most = self._max_bytes - self._epoch_bytes
        if size + SLOT_OVERHEAD_BYTES > most:
            raise StoreFull(f"{size + SLOT_OVERHEAD_BYTES} bytes do not fit into {most}")
        if address in self._entries:
            self._drop(address)
        expires_at_s = self._clock.monotonic_s() + ttl_s
        slot = self._slot_of(expires_at_s)
        while self._entries and self._held_bytes + size + self._cost_of(slot) > most:
            self._evict()
        account = self._account(tuple(epoch_names))
        account.entries += 1
        account.held_bytes += size
        self._held_bytes += size + self._cost_of(slot)
        self._entries[address] = (blob, expires_at_s, account)
        self._expiring.setdefault(slot, set()).add(address)
        return Put(kept=True)

    def sweep(self, at_most: int) -> int:
        """Forgets entries that have expired, in the order of their minutes. Returns how much was left undone of
        ``at_most`` entries and empty minutes: 0 where there may be more.
        """
        slot_now = self._slot_of(self._clock.monotonic_s())
        while at_most > 0 and self._swept_slot < slot_now:
            expired = self._expiring.get(self._swept_slot)
            if expired:
                self._drop(expired.pop())
            else:
                self._swept_slot += 1
            at_most -= 1
        return at_most

    async def delete(self, address: bytes, epoch_names: Sequence[str] = ()) -> None:
        """Forgets what is at ``address``."""
        del epoch_names  # kept with it
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

    @staticmethod
    def _slot_of(at_s: float) -> int:
        return int(at_s // _SLOT_S)

    def _cost_of(self, slot: int) -> int:
        return 0 if slot in self._expiring else SLOT_OVERHEAD_BYTES

    def _evict(self) -> None:
        self._drop(next(iter(self._entries))).evictions += 1
        self._evictions += 1

    def _drop(self, address: bytes) -> _Account:
        blob, expires_at_s, account = self._entries.pop(address)
        size = _size(address, blob)
        self._held_bytes -= size
        account.entries -= 1
        account.held_bytes -= size
        slot = self._slot_of(expires_at_s)
        expiring = self._expiring[slot]
        expiring.discard(address)
        if not expiring:
            del self._expiring[slot]
            self._held_bytes -= SLOT_OVERHEAD_BYTES
        return account


class Swept(Protocol):
    """A store of what expires."""

    def sweep(self, at_most: int) -> int:
        """Forgets so much of what has expired. Returns how much was left undone of it: 0 where there may be more."""


async def sweeping(*stores: Swept, every_s: float) -> None:
    """Sweeps ``stores`` until it is cancelled: a part at a time, with calls let in between."""
    while True:
        done = min(store.sweep(_SWEPT_AT_ONCE) for store in stores) > 0
        await asyncio.sleep(every_s if done else 0)


def _size(address: bytes, blob: bytes) -> int:
    return sys.getsizeof(address) + sys.getsizeof(blob) + ENTRY_OVERHEAD_BYTES + PLACE_BYTES


def _epochs_size(names: Sequence[str]) -> int:
    return sum(sys.getsizeof(name) + EPOCH_OVERHEAD_BYTES for name in names)
