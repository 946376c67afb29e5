"""The harness finds nothing where there is nothing, and finds the bug that it is there for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.deployments import AllInOne, Mesh, deployed
from tests.faults.histories import Fault, Harness
from tests.faults.trigger import REPLY_BEFORE_COMMIT

MOST_HISTORIES = 5
"""In one of them at least, the COMMIT that is killed is of a charge that a client was told of."""


def assert_clean(harness: Harness, kills: int) -> None:
    outcome = harness.outcome
    assert outcome.is_clean, outcome.line()
    assert (outcome.histories, outcome.kills) == (kills, kills)
    assert outcome.acknowledged > 0


@pytest.mark.timeout(240)
async def test_in_the_mesh_nothing_is_lost_until_a_reply_before_its_commit_is_planted(tmp_path: Path) -> None:
    async with deployed(Mesh, tmp_path) as mesh:
        harness = await Harness.on(mesh, seed=1)
        await harness.history(Fault("after_commit", "ledger"))
        assert_clean(harness, kills=1)
        await mesh.restart_ledger(REPLY_BEFORE_COMMIT)
        for _ in range(MOST_HISTORIES):
            await harness.history(Fault("before_commit", "ledger"))
            if harness.outcome.lost:
                break
    assert harness.outcome.lost > 0, harness.outcome.line()
    assert not harness.outcome.is_clean


@pytest.mark.timeout(120)
async def test_in_one_process_nothing_is_lost(tmp_path: Path) -> None:
    async with deployed(AllInOne, tmp_path) as allinone:
        harness = await Harness.on(allinone, seed=1)
        await harness.history(Fault("before_commit", "up"))
        await harness.end()
    assert_clean(harness, kills=1)
