"""A store that keeps long entries compressed.

    magic "TGZ1" | length of what was compressed | zlib, level 1

Level and threshold were measured (cache-svc/README.md): text takes less than half the room, and a hit twice the CPU;
higher levels win a tenth of the room for two to four times the CPU of a store.
"""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from cache_svc.domain.fill import Claim
from cache_svc.domain.request import Group
from cache_svc.domain.statistics import Held
from cache_svc.service import Ending, EntryStore, Found, Put, StoreUsage

MAGIC = b"TGZ1"
_LENGTH = struct.Struct(">I")
_DATA_AT = len(MAGIC) + _LENGTH.size
_LEVEL = 1
_PACK_IN_THREAD_FROM_BYTES = 64 * 1024
_UNPACK_IN_THREAD_FROM_BYTES = 256 * 1024
"""From these sizes on it takes about half a millisecond, longer than the loop should stand still."""


class PackedStore:
    """An ``EntryStore`` over another.

    ``from_bytes``: the shortest blob that is compressed. ``max_bytes``: the longest that is unpacked; more is never
    made of what lies in the store, whatever it says of itself. What can't be unpacked is found as it is, packed: it is
    no entry, so whoever asked for it deletes it.
    """

    def __init__(self, store: EntryStore, *, from_bytes: int, max_bytes: int) -> None:
        self._store = store
        self._from_bytes = from_bytes
        self._max_bytes = max_bytes

    async def find(
        self,
        address: bytes,
        epoch_names: Sequence[str],
        clues: Sequence[bytes] = (),
        claim: Claim | None = None,
    ) -> Found:
        """See ``EntryStore``."""
        found = await self._store.find(address, epoch_names, clues, claim)
        if not any(blob is not None and blob.startswith(MAGIC) for blob in (found.blob, *found.clues)):
            return found
        restored = [await self._restored(clue) for clue in found.clues]
        return replace(found, blob=await self._restored(found.blob), clues=tuple(restored))

    async def epochs(self, epoch_names: Sequence[str]) -> tuple[int, ...]:
        """See ``EntryStore``."""
        return await self._store.epochs(epoch_names)

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
        """See ``EntryStore``."""
        packed = await self._packed(blob) if self._is_to_pack(blob) else blob
        return await self._store.put(
            address, packed, ttl_s=ttl_s, epoch_names=epoch_names, epochs=epochs, ending=ending
        )

    async def delete(self, address: bytes, epoch_names: Sequence[str] = ()) -> None:
        """See ``EntryStore``."""
        await self._store.delete(address, epoch_names)

    async def raise_epoch(self, epoch_name: str) -> int:
        """See ``EntryStore``."""
        return await self._store.raise_epoch(epoch_name)

    async def under(self, prefix: str) -> list[tuple[bytes, bytes]]:
        """See ``EntryStore``."""
        found = await self._store.under(prefix)
        return [(address, await self._restored(packed) or packed) for address, packed in found]

    async def held(self, org_id: str) -> Mapping[Group, Held] | None:
        """See ``EntryStore``; of the bytes as they lie there."""
        return await self._store.held(org_id)

    async def usage(self) -> StoreUsage:
        """See ``EntryStore``; of the bytes as they lie there."""
        return await self._store.usage()

    async def _packed(self, blob: bytes) -> bytes:
        if len(blob) < _PACK_IN_THREAD_FROM_BYTES:
            packed = pack(blob)
        else:
            packed = await asyncio.to_thread(pack, blob)
        return packed if blob.startswith(MAGIC) or len(packed) < len(blob) else blob

    def _is_to_pack(self, blob: bytes) -> bool:
        return self._from_bytes <= len(blob) <= self._max_bytes or blob.startswith(MAGIC)

    async def _restored(self, packed: bytes | None) -> bytes | None:
        if packed is None or not packed.startswith(MAGIC):
            return packed
        if _length_of(packed) < _UNPACK_IN_THREAD_FROM_BYTES:
            blob = unpack(packed, max_bytes=self._max_bytes)
        else:
            blob = await asyncio.to_thread(unpack, packed, max_bytes=self._max_bytes)
        return packed if blob is None else blob


def pack(blob: bytes) -> bytes:
    """The form in which ``blob`` is kept."""
    return b"".join((MAGIC, _LENGTH.pack(len(blob)), zlib.compress(blob, _LEVEL)))


def unpack(packed: bytes, *, max_bytes: int) -> bytes | None:
    """What was packed; None where it is damaged, or not of the length that it says, or longer than ``max_bytes``."""
    length = _length_of(packed)
    if length > max_bytes:
        return None
    reader = zlib.decompressobj()
    try:
        blob = reader.decompress(memoryview(packed)[_DATA_AT:], length + 1)  # one more, to see that it ends there
    except zlib.error:
        return None
    return blob if len(blob) == length and reader.eof and not reader.unused_data else None


def _length_of(packed: bytes) -> int:
    if len(packed) < _DATA_AT:
        return 0
    (length,) = _LENGTH.unpack_from(packed, len(MAGIC))
    return int(length)
