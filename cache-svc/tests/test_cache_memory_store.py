"""The in-process store's bound, order of eviction and epochs."""

from __future__ import annotations

import asyncio
import itertools
import resource
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_svc.service import StoreFull
from cache_svc.store.memory import ENTRY_OVERHEAD_BYTES, PLACE_BYTES, SLOT_OVERHEAD_BYTES, MemoryStore, sweeping
from meshkit.testing import FakeClock

OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["put", "find", "delete", "pass"]), st.integers(0, 7), st.integers(0, 900)), max_size=60
)


# 33 bytes of header on each bytes object, 32 of address, and the overhead of an entry.
EMPTY = 33 + 32 + 33 + ENTRY_OVERHEAD_BYTES + PLACE_BYTES


def made(max_bytes: int, clock: FakeClock | None = None, **limits: int) -> MemoryStore:
    return MemoryStore(max_bytes=max_bytes, clock=clock or FakeClock(), new_epoch=itertools.count(1).__next__, **limits)


def address(number: int) -> bytes:
    return bytes([number]) * 32


@given(OPERATIONS, st.integers(900, 5_000))
def test_it_holds_its_bound_and_drops_the_least_recently_used(
    operations: list[tuple[str, int, int]], bound: int
) -> None:
    """Against a model: a list in order of use, and a size for each entry. All of them expire within one minute."""
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
            assert held == in_model() <= bound

    def in_model() -> int:
        return sum(size for _, size, _ in model.values()) + (SLOT_OVERHEAD_BYTES if model else 0)

    async def put(number: int, blob: bytes) -> None:
        size = len(blob) + EMPTY
        if size + SLOT_OVERHEAD_BYTES > bound:
            with pytest.raises(StoreFull):
                await store.put(address(number), blob, ttl_s=2, epoch_names=())
            return
        model.pop(number, None)
        while model and in_model() + size > bound:
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


@pytest.mark.parametrize("minutes", [1, 5_000])
async def test_the_bytes_counted_are_the_bytes_held(minutes: int) -> None:
    """Never fewer than the interpreter says that the store takes, and not many more; expiring together or not."""
    store = made(2**40)
    await store.put(address(0), b"", ttl_s=60, epoch_names=())
    said_before = (await store.usage()).held_bytes
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(10_000):
            ttl_s = 60 * (1 + number % minutes)
            await store.put(number.to_bytes(32, "big"), bytes(100), ttl_s=ttl_s, epoch_names=())
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    said = (await store.usage()).held_bytes - said_before
    assert 0.6 * said < taken <= said


async def test_100_000_entries_stay_within_the_bound() -> None:
    """With epochs of many tenants, and in many minutes. What is counted is what is held, as the test before shows; that
    the process grows no more once the bound is reached is seen from outside."""
    bound = 8_000_000
    store = made(bound)
    resident: list[int] = []
    for number in range(100_000):
        if number % 100 == 0:
            await store.epochs([f'["org","org_{number}"]', f'["project","org_{number}","p"]'])
        await store.put(number.to_bytes(32, "big"), bytes(300), ttl_s=60 + number % 5_000, epoch_names=())
        if number % 10_000 == 9_999:
            usage = await store.usage()
            assert usage.held_bytes <= bound
            resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize())
    assert usage.evictions > 85_000
    assert usage.held_bytes > 0.9 * bound
    assert resident[-1] - resident[1] < bound, "unbounded, it would be seven times that"


async def test_what_has_expired_leaves_without_being_asked_for() -> None:
    clock = FakeClock()
    store = made(2**30, clock)
    for number in range(2_000):
        await store.put(number.to_bytes(32, "big"), b"x", ttl_s=60 if number % 2 else 3_600, epoch_names=())
    assert store.sweep(10_000) > 0, "nothing has expired, and that is found out at once"
    clock.advance(180_000)
    held = (await store.usage()).held_bytes
    assert store.sweep(300) == 0
    assert (await store.usage()).held_bytes == held - (300 - 1) * (1 + EMPTY), "a bounded part, and an empty minute"
    sweeper = asyncio.create_task(sweeping(store, every_s=3_600))
    for _ in range(10):
        await asyncio.sleep(0)  # between two parts the others have their turn
    sweeper.cancel()
    await asyncio.gather(sweeper, return_exceptions=True)
    assert (await store.usage()).held_bytes == 1_000 * (1 + EMPTY) + SLOT_OVERHEAD_BYTES
    kept = [(await store.find(number.to_bytes(32, "big"), ())).blob is not None for number in range(2_000)]
    assert kept == [number % 2 == 0 for number in range(2_000)]
    assert (await store.usage()).evictions == 0, "what expired is not counted as driven out"


async def test_a_put_sweeps_too_and_never_what_is_still_good() -> None:
    clock = FakeClock()
    store = made(2**30, clock)
    for number in range(100):
        await store.put(number.to_bytes(32, "big"), b"x", ttl_s=1 + number, epoch_names=())
    clock.advance(60_000)
    for _ in range(40):
        await store.put(address(200), b"x", ttl_s=600, epoch_names=())
    assert (await store.usage()).held_bytes == 42 * (1 + EMPTY) + 2 * SLOT_OVERHEAD_BYTES
    assert (await store.find((99).to_bytes(32, "big"), ())).blob == b"x"


async def test_what_was_used_last_stays_longest() -> None:
    store = made(2 * (100 + EMPTY) + SLOT_OVERHEAD_BYTES)
    await store.put(address(1), b"x" * 100, ttl_s=60, epoch_names=())
    await store.put(address(2), b"x" * 100, ttl_s=60, epoch_names=())
    await store.find(address(1), ())
    await store.put(address(3), b"x" * 100, ttl_s=60, epoch_names=())
    assert [(await store.find(address(n), ())).blob is not None for n in (1, 2, 3)] == [True, False, True]


async def test_evictions_are_counted() -> None:
    store = made(2 * (100 + EMPTY) + SLOT_OVERHEAD_BYTES)
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


async def test_epochs_are_within_the_bound_too() -> None:
    bound = 1_000_000
    store = made(bound)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(8_000):
            await store.epochs([f'["org","org_{number}"]'])
            if number % 4 == 0:
                await store.put(number.to_bytes(32, "big"), bytes(300), ttl_s=60, epoch_names=())
            if number % 1_000 == 999:
                assert tracemalloc.get_traced_memory()[0] - before < 1.05 * bound, "dicts are copied when they grow"
    finally:
        tracemalloc.stop()
    assert (await store.usage()).held_bytes < bound
