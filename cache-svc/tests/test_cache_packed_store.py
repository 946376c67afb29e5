"""Compressed entries: what is put comes back, and what is damaged or a bomb is a miss that is deleted."""

from __future__ import annotations

import itertools
import random
import struct
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cache_svc.domain.replay import Controls, Hit, Miss, MissReason
from cache_svc.service import CacheService, Limits
from cache_svc.store.memory import MemoryStore
from cache_svc.store.packed import MAGIC, PackedStore, pack, unpack
from meshkit.testing import FakeClock

ADDRESS = b"\1" * 32
TEXT = b"A tally stick was split in two. " * 400


@pytest.fixture
def inner(clock: FakeClock) -> MemoryStore:
    return MemoryStore(max_bytes=2**26, clock=clock, new_epoch=itertools.count(1).__next__)


@pytest.fixture
def packed(inner: MemoryStore) -> PackedStore:
    return PackedStore(inner, from_bytes=1_000, max_bytes=2**20)


@pytest.mark.parametrize(
    ("blob", "shorter"),
    [
        (b"", False),
        (TEXT[:999], False),
        (TEXT[:1_000], True),
        (TEXT, True),
        (TEXT * 40, True),  # in a thread
        (random.Random(1).randbytes(5_000), False),
        (MAGIC, None),
        (MAGIC + b"\0\0\0\1x", None),
        (pack(TEXT), None),
        (b"x" * (2**20 + 1), False),
    ],
)
async def test_what_is_put_comes_back(
    packed: PackedStore, inner: MemoryStore, blob: bytes, shorter: bool | None
) -> None:
    await packed.put(ADDRESS, blob, ttl_s=60, epoch_names=())
    assert (await packed.find(ADDRESS, ())).blob == blob
    lies = (await inner.find(ADDRESS, ())).blob
    assert lies is not None
    if shorter is not None:
        assert (len(lies) < len(blob), lies.startswith(MAGIC)) == (shorter, shorter)


@given(st.binary(max_size=300), st.data())
@settings(max_examples=60)
def test_any_damage_is_noticed_or_harmless(blob: bytes, data: st.DataObject) -> None:
    form = bytearray(pack(blob))
    at = data.draw(st.integers(len(MAGIC), len(form) - 1))
    form[at] ^= data.draw(st.integers(1, 255))
    # zlib's own checksum; bits of its header that mean nothing may flip.
    assert unpack(bytes(form), max_bytes=1_000) in (None, blob)
    cut = data.draw(st.integers(0, len(form) - 1))
    assert unpack(pack(blob)[:cut], max_bytes=1_000) is None
    assert unpack(pack(blob) + b"\0", max_bytes=1_000) is None


@given(st.binary(max_size=40))
@example(b"\xff\xff\xff\xff")
@settings(max_examples=60)
def test_arbitrary_bytes_are_nothing(tail: bytes) -> None:
    assert unpack(MAGIC + tail, max_bytes=1_000) is None


def test_a_decompression_bomb_is_not_unpacked() -> None:
    """Whether it says how long it is or lies, no more is made of it than it says, and never more than the limit."""
    bomb = zlib.compress(bytes(30_000_000), 1)
    tracemalloc.start()
    try:
        for says in (30_000_000, 2**20, 10):
            assert unpack(MAGIC + struct.pack(">I", says) + bomb, max_bytes=2**20) is None
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 4 * 2**20


@pytest.mark.parametrize(
    "spoil",
    [
        lambda blob: blob[:-5],
        lambda blob: blob[:40] + bytes([blob[40] ^ 1]) + blob[41:],
        lambda blob: MAGIC + struct.pack(">I", 2**31) + zlib.compress(bytes(10**6)),
        lambda blob: MAGIC,
        lambda blob: pack((unpack(blob, max_bytes=2**20) or b"")[:-1]),  # sound as a packing, not as an entry
    ],
)
async def test_a_poisoned_packing_is_a_miss_and_is_deleted(
    inner: MemoryStore, packed: PackedStore, clock: FakeClock, sample: Any, spoil: Any
) -> None:
    service = CacheService(packed, clock, Limits(max_entry_bytes=2**20, ttl_s=600))
    body = {**sample.request, "messages": [{"role": "user", "content": TEXT.decode()}]}

    async def looked_up() -> Hit | Miss:
        return await service.lookup(sample.subject(body), Controls(), "gen_1")

    miss = await looked_up()
    assert isinstance(miss, Miss)
    assert await service.store(sample.subject(body), miss.key, sample.fresh()) == ""
    address = sample.read(body).address
    kept = (await inner.find(address, ())).blob
    assert kept is not None
    assert kept.startswith(MAGIC)
    assert isinstance(await looked_up(), Hit)
    await inner.put(address, spoil(kept), ttl_s=600, epoch_names=())
    assert await looked_up() == Miss(MissReason.NOT_STORED, miss.key)
    assert service.counters.poisoned == 1
    assert (await inner.find(address, ())).blob is None
