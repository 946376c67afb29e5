"""Watchers are told of each revoked key: at once here, and after a poll when another replica revoked it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest
from ledger_trail import an_entry_at

from ledger_svc.domain.errors import LedgerUnavailable
from ledger_svc.domain.keys import ApiKey, KeyDigest
from ledger_svc.service.keys import KeyService
from ledger_svc.service.ports import Due
from ledger_svc.service.revocations import OVERLAP_MS, Revocations
from ledger_svc.service.sweeper import Sweeper
from ledger_svc.store.directory import Directory
from meshkit.principal import Principal
from meshkit.testing import FakeClock

NewPayer = Callable[..., Awaitable[Principal]]


class Stop(Exception):
    """Ends a loop in a test."""


async def told(watch: AsyncIterator[str], count: int) -> list[str]:
    return [await asyncio.wait_for(anext(watch), 5) for _ in range(count)]


async def test_a_watch_stands_first_and_then_tells(
    keys: KeyService, revocations: Revocations, new_payer: NewPayer
) -> None:
    payer = await new_payer()
    await keys.revoke_key((await keys.create_key(payer.org_id, payer.project_id, "before"))[0].key_id, "")
    async with aclosing(revocations.watch()) as one, aclosing(revocations.watch()) as two:
        assert await told(one, 1) == await told(two, 1) == [""]
        await keys.revoke_key(payer.key_id, "")
        await keys.revoke_key(payer.key_id, "")
        assert await told(one, 1) == await told(two, 1) == [payer.key_id]
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(one), 0.01)


async def test_a_revocation_by_another_replica_is_told_once_after_a_poll(
    revocations: Revocations, directory: Directory, clock: FakeClock, new_payer: NewPayer
) -> None:
    payer, later = await new_payer(), await new_payer()
    async with aclosing(revocations.watch()) as watch:
        await told(watch, 1)
        clock.advance(2_000)
        await directory.revoke_key(payer.key_id, "", an_entry_at(clock.now_ms()))
        await revocations.poll()
        clock.advance(2_000)
        # Its clock is behind, or its commit was slow: the time it carries is before that of the last poll.
        await directory.revoke_key(later.key_id, "", an_entry_at(clock.now_ms() - 3_000))
        await revocations.poll()
        await revocations.poll()
        assert await told(watch, 2) == [payer.key_id, later.key_id]
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(watch), 0.01)


async def test_what_was_told_is_forgotten_in_time(
    keys: KeyService, revocations: Revocations, clock: FakeClock, new_payer: NewPayer
) -> None:
    payer = await new_payer()
    await keys.revoke_key(payer.key_id, "")
    for _ in range(3):
        clock.advance(OVERLAP_MS)
        await revocations.poll()
    assert revocations._told == {}


async def test_a_watcher_that_falls_behind_is_ended_and_the_others_go_on(revocations: Revocations) -> None:
    async with aclosing(revocations.watch()) as slow, aclosing(revocations.watch()) as quick:
        await told(slow, 1)
        await told(quick, 1)
        for n in range(4):
            revocations.announce(f"key_{n}", 1)
            assert await told(quick, 1) == [f"key_{n}"]
        with pytest.raises(LedgerUnavailable):
            await told(slow, 1)
    assert revocations._queues == set()


class FailingOnce:
    """A directory and records whose first look fails, as a database does that restarts."""

    def __init__(self) -> None:
        self.looks = 0

    async def revoked_since(self, since_ms: int) -> list[tuple[str, int]]:
        self.looks += 1
        if self.looks == 1:
            raise LedgerUnavailable("restarting")
        return [("key_1", since_ms)]

    async def due_holds(self, now_ms: int, *, limit: int, after: Due | None) -> list[Due]:
        self.looks += 1
        if self.looks == 1:
            raise LedgerUnavailable("restarting")
        return []

    async def due_credit(self, now_ms: int, *, limit: int) -> list[str]:
        return []

    async def find_key(self, digests: list[KeyDigest]) -> ApiKey | None:
        raise AssertionError


def three_rounds() -> Callable[[float], Awaitable[None]]:
    rounds = iter(range(3))

    async def sleep(seconds: float) -> None:
        assert seconds == 1.5
        if next(rounds, None) is None:
            raise Stop

    return sleep


async def test_a_failed_poll_and_a_failed_sweep_are_logged_and_tried_again(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    clock, failing = FakeClock(), FailingOnce()
    store: Any = failing
    revocations = Revocations(store, clock)
    async with aclosing(revocations.watch()) as watch:
        await told(watch, 1)
        with pytest.raises(Stop):
            await revocations.run(1.5, three_rounds())
        assert await told(watch, 1) == ["key_1"]
    assert failing.looks == 3
    store = sweeping = FailingOnce()
    with pytest.raises(Stop):
        await Sweeper(ledger=store, records=store, clock=clock, batch_limit=1).run(1.5, three_rounds())
    assert sweeping.looks == 3
    logged = capsys.readouterr().out + caplog.text
    assert "revocation_poll_failed" in logged
    assert "sweep_failed" in logged
