"""The ledger's commands, tried again by the clock."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from router_rig import FakeLedger, call_of

from meshkit.testing import FakeClock
from router_svc.domain.errors import LedgerRefused, LedgerUnavailable
from router_svc.service.settlement import Settlement


@dataclass
class Waits:
    """A sleep that moves the clock."""

    clock: FakeClock
    pauses_s: list[float] = field(default_factory=list)

    async def __call__(self, pause_s: float) -> None:
        self.pauses_s.append(pause_s)
        self.clock.advance(round(pause_s * 1_000))


def settlement_over(ledger: FakeLedger, *, patience_s: float = 10.0) -> tuple[Settlement, Waits]:
    clock = FakeClock()
    waits = Waits(clock)
    return Settlement(ledger, clock, hold_ttl_ms=1_000, patience_s=patience_s, sleep=waits), waits


async def test_pauses_double_up_to_a_bound() -> None:
    ledger = FakeLedger(open_holds={"req_1": 1}, away={"release": 7})
    settlement, waits = settlement_over(ledger)
    await settlement.release(call_of(), "why", ())
    assert waits.pauses_s == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0]
    assert list(ledger.released) == ["req_1"]


async def test_patience_ends() -> None:
    ledger = FakeLedger(open_holds={"req_1": 1}, away={"release": 99})
    settlement, waits = settlement_over(ledger, patience_s=10.0)
    await settlement.release(call_of(), "why", ())
    assert 8.0 < sum(waits.pauses_s) <= 10.0
    assert ledger.open_holds, "the hold ends by itself"


async def test_a_reserve_is_tried_for_a_second_only_then_given_back() -> None:
    ledger = FakeLedger(away={"reserve": 99})
    settlement, waits = settlement_over(ledger)
    with pytest.raises(LedgerUnavailable):
        await settlement.reserve(call_of(), 5, 5)
    assert sum(waits.pauses_s) <= 1.0
    assert ledger.log[-1] == ("release", "req_1")


async def test_a_refusal_is_not_tried_again() -> None:
    ledger = FakeLedger(refusal=LedgerRefused(RuntimeError("no")))
    settlement, waits = settlement_over(ledger)
    with pytest.raises(LedgerRefused):
        await settlement.reserve(call_of(), 5, 5)
    assert waits.pauses_s == []


class ThreeSleeps:
    """Three sleeps, then the end."""

    def __init__(self) -> None:
        self.slept_s: list[float] = []
        self.over = asyncio.Event()

    async def __call__(self, pause_s: float) -> None:
        if len(self.slept_s) == 3:
            self.over.set()
            await asyncio.Event().wait()
        self.slept_s.append(pause_s)


async def test_a_hold_is_extended_three_times_in_its_life_while_its_call_runs() -> None:
    ledger, sleeps = FakeLedger(open_holds={"req_1": 1}, away={"extend": 1}), ThreeSleeps()
    settlement = Settlement(ledger, FakeClock(), hold_ttl_ms=60_000, patience_s=1.0, sleep=sleeps)
    with settlement.kept(call_of()):
        await sleeps.over.wait()
    assert sleeps.slept_s == [20.0] * 3
    assert [command for command, _ in ledger.log].count("extend") == 2  # the first time the ledger was away


async def test_a_hold_that_has_ended_is_not_extended_and_the_call_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    ledger, sleeps = FakeLedger(), ThreeSleeps()
    settlement = Settlement(ledger, FakeClock(), hold_ttl_ms=60_000, patience_s=1.0, sleep=sleeps)
    with settlement.kept(call_of()):
        for _ in range(5):
            await asyncio.sleep(0)
    assert sleeps.slept_s == [20.0]
    assert "hold_lost" in capsys.readouterr().out


async def test_holds_that_fall_due_together_are_extended_together_each_for_itself(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ledger, sleeps = FakeLedger(open_holds={"req_2": 1}), ThreeSleeps()
    settlement = Settlement(ledger, FakeClock(), hold_ttl_ms=60_000, patience_s=1.0, sleep=sleeps)
    with settlement.kept(call_of(request_id="req_1")), settlement.kept(call_of(request_id="req_2")):
        await sleeps.over.wait()
    assert ledger.log == [("extend", "req_2")] * 3  # the first is lost, and asked for once
    assert sleeps.slept_s == [20.0] * 3
    assert capsys.readouterr().out.count("hold_lost") == 1
    await settlement.aclose()


async def test_a_hold_that_is_settled_while_it_is_extended_is_not_said_to_be_lost(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ledger, sleeps, asked, settled = FakeLedger(), ThreeSleeps(), asyncio.Event(), asyncio.Event()
    refused = ledger.extend

    async def slow(org_id: str, request_id: str, *, ttl_ms: int) -> None:
        asked.set()
        await settled.wait()
        await refused(org_id, request_id, ttl_ms=ttl_ms)

    ledger.extend = slow  # type: ignore[method-assign]
    settlement = Settlement(ledger, FakeClock(), hold_ttl_ms=60_000, patience_s=1.0, sleep=sleeps)
    with settlement.kept(call_of()):
        await asked.wait()
    settled.set()
    for _ in range(5):
        await asyncio.sleep(0)
    await settlement.aclose()
    assert "hold_lost" not in capsys.readouterr().out


async def test_no_hold_is_kept_after_the_end_of_the_router() -> None:
    ledger, sleeps = FakeLedger(open_holds={"req_1": 1}), ThreeSleeps()
    settlement = Settlement(ledger, FakeClock(), hold_ttl_ms=60_000, patience_s=1.0, sleep=sleeps)
    with settlement.kept(call_of()):
        await settlement.aclose()
    assert ledger.log == []
