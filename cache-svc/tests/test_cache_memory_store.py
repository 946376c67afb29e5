"""The in-process store's bound, order of eviction and epochs."""

from __future__ import annotations

import asyncio
import itertools
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_svc.service import StoreFull
from cache_svc.store.memory import ENTRY_OVERHEAD_BYTES, MemoryStore
from meshkit.testing import FakeClock

OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["put", "find", "delete", "pass"]), st.integers(0, 7), st.integers(0, 900)), max_size=60
)


def made(max_bytes: int, clock: FakeClock | None = None, **limits: int) -> MemoryStore:
    return MemoryStore(max_bytes=max_bytes, clock=clock or FakeClock(), new_epoch=itertools.count(1).__next__, **limits)


def address(number: int) -> bytes:
    return bytes([number]) * 32


@given(OPERATIONS, st.integers(400, 4_000))
def test_it_holds_its_bound_and_drops_the_least_recently_used(
    operations: list[tuple[str, int, int]], bound: int
) -> None:
    """Against a model: a list in order of use, and a size for each entry."""
    clock = FakeClock()
    store = made(bound, clock)
    model: dict[int, tuple[bytes, int, float]] = {}

    async def run() -> None:
        for what, number, length in operations:
            if what == "put":
                await put(number, b"x" * length)
            elif what == "find":
                await find(number)
            elif what == "delete":
                await store.delete(address(number))
                model.pop(number, None)
            else:
                clock.advance(length)
            held = (await store.usage()).held_bytes
            assert held == sum(size for _, size, _ in model.values()) <= bound

    async def put(number: int, blob: bytes) -> None:
        # 33 bytes of header on each bytes object, 32 of address, and the overhead of an entry.
        size = len(blob) + 33 + 32 + 33 + ENTRY_OVERHEAD_BYTES
        if size > bound:
            with pytest.raises(StoreFull):
                await store.put(address(number), blob, ttl_s=2, epoch_names=())
            return
        model.pop(number, None)
        while sum(size for _, size, _ in model.values()) + size > bound:
            model.pop(next(iter(model)))
        model[number] = (blob, size, clock.monotonic_s() + 2)
        await store.put(address(number), blob, ttl_s=2, epoch_names=())

    async def find(number: int) -> None:
        expected = model.pop(number, None)
        if expected is not None and clock.monotonic_s() < expected[2]:
            model[number] = expected
        else:
            expected = None
        assert (await store.find(address(number), ())).blob == (expected and expected[0])

    asyncio.run(run())


async def test_the_bytes_counted_are_the_bytes_held() -> None:
    """Never fewer than the interpreter says that the store takes, and not many more."""
    store = made(2**40)
    await store.put(address(0), b"", ttl_s=60, epoch_names=())
    said_before = (await store.usage()).held_bytes
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(10_000):
            await store.put(number.to_bytes(32, "big"), bytes(100), ttl_s=60, epoch_names=())
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    said = (await store.usage()).held_bytes - said_before
    assert 0.8 * said < taken <= said


async def test_what_was_used_last_stays_longest() -> None:
    store = made(2 * (100 + 33 + 32 + 33 + ENTRY_OVERHEAD_BYTES))
    await store.put(address(1), b"x" * 100, ttl_s=60, epoch_names=())
    await store.put(address(2), b"x" * 100, ttl_s=60, epoch_names=())
    await store.find(address(1), ())
    await store.put(address(3), b"x" * 100, ttl_s=60, epoch_names=())
    assert [(await store.find(address(n), ())).blob is not None for n in (1, 2, 3)] == [True, False, True]


async def test_evictions_are_counted() -> None:
    store = made(1_000)
    for number in range(5):
        await store.put(address(number), b"x" * 100, ttl_s=60, epoch_names=())
    assert (await store.usage()).evictions == 3


async def test_epochs_are_bounded_and_forgetting_them_forgets_the_entries() -> None:
    store = made(10_000, max_epochs=4)
    epochs = await store.epochs(["a", "b", "c"])
    await store.put(address(1), b"one", ttl_s=60, epoch_names=["a"])
    raised = await store.raise_epoch("a")
    assert raised > epochs[0]
    assert (await store.find(address(1), ["a", "d"])).blob == b"one"
    found = await store.find(address(1), ["a", "e"])
    assert found.blob is None
    assert found.epochs[0] > raised, "an epoch never comes back to a value that it had"
