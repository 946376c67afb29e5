"""Watchers are told of each revoked key: at once here, and after a poll when another replica revoked it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from ledger_trail import a_change_of_key, a_revocation_at

from ledger_svc.domain.errors import LedgerUnavailable
from ledger_svc.domain.key_changes import KeyChange
from ledger_svc.domain.keys import ApiKey, KeyDigest
from ledger_svc.service.keys import KeyService
from ledger_svc.service.ports import Due
from ledger_svc.service.revocations import Revocations
from ledger_svc.service.sweeper import Sweeper
from ledger_svc.service.watchers import poll_for_others
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


async def test_every_change_of_a_key_is_told(keys: KeyService, revocations: Revocations, new_payer: NewPayer) -> None:
    payer, other = await new_payer(), await new_payer()
    async with aclosing(revocations.watch()) as watch:
        await told(watch, 1)
        await keys.update_key(payer.key_id, "", KeyChange(read_only=True))
        await keys.update_key(payer.key_id, "", KeyChange(read_only=True))  # it is that already
        await keys.rotate_key(other.key_id, "", overlap_ms=0)
        await keys.update_key(payer.key_id, "", KeyChange(read_only=False))
        assert await told(watch, 3) == [payer.key_id, other.key_id, payer.key_id]
        await revocations.poll()
        with pytest.raises(asyncio.TimeoutError):  # the first poll tells that it began, and nothing twice
            assert await told(watch, 2) == [""]


async def test_a_change_by_another_replica_is_told_once_after_a_poll(
    revocations: Revocations, directory: Directory, clock: FakeClock, new_payer: NewPayer
) -> None:
    payer, later = await new_payer(), await new_payer()
    await directory.revoke_key(payer.key_id, "", a_revocation_at(clock.now_ms()))
    async with aclosing(revocations.watch()) as watch:
        await told(watch, 1)
        await revocations.poll()
        assert await told(watch, 1) == [""], "what was changed before the first poll is not known one by one"
        for now_ms in (clock.now_ms(), clock.now_ms() - 3_000):  # clocks differ, and don't matter
            key_id = (await new_payer()).key_id
            await directory.revoke_key(key_id, "", a_revocation_at(now_ms))
            changed = await directory.change_key(
                later.key_id, "", lambda key: replace(key, name=key.name + "x"), a_change_of_key
            )
            revocations.announce(later.key_id, changed.change_seq)
            await revocations.poll()
            await revocations.poll()
            assert await told(watch, 2) == [later.key_id, key_id]
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(watch), 0.01)


async def test_what_was_told_is_forgotten(keys: KeyService, revocations: Revocations, new_payer: NewPayer) -> None:
    payer = await new_payer()
    await keys.revoke_key(payer.key_id, "")
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
    assert revocations.watcher_count == 0


class FailingOnce:
    """A directory and records whose first look fails, as a database does that restarts."""

    def __init__(self) -> None:
        self.looks = 0

    async def newest_change(self) -> int:
        self.looks += 1
        if self.looks == 1:
            raise LedgerUnavailable("restarting")
        return 7

    async def changes_after(self, change_seq: int) -> list[tuple[str, int]]:
        self.looks += 1
        return [("key_1", 8)] if change_seq == 7 else []

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
    revocations = Revocations(store)
    async with aclosing(revocations.watch()) as watch:
        await told(watch, 1)
        with pytest.raises(Stop):
            await revocations.run(1.5, lambda: False, three_rounds())
        assert await told(watch, 2) == ["", "key_1"]
    assert failing.looks == 4
    store = sweeping = FailingOnce()
    with pytest.raises(Stop):
        await Sweeper(ledger=store, records=store, clock=clock, batch_limit=1).run(1.5, three_rounds())
    assert sweeping.looks == 3
    logged = capsys.readouterr().out + caplog.text
    assert "revocation_poll_failed" in logged
    assert "sweep_failed" in logged


async def test_the_writer_polls_as_it_becomes_it_and_seldom_then() -> None:
    leads = [False, False, True, True, True, True, True, True, False, True, True]
    rounds, polled = iter(enumerate(leads)), []
    now = 0

    async def sleep(_: float) -> None:
        nonlocal now
        now = next(rounds, (-1, False))[0]
        if now < 0:
            raise Stop

    async def poll() -> None:
        polled.append(now)
        if now == 7:
            raise LedgerUnavailable("restarting")

    with pytest.raises(Stop):
        await poll_for_others(poll, 1.5, lambda: leads[now], sleep, failure="poll_failed")
    assert polled == [0, 1, 2, 6, 8, 9]
