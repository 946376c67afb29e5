"""The ambient deadline."""

from __future__ import annotations

import asyncio

import pytest

from meshkit.deadlines import deadline, remaining_s
from meshkit.errors import MeshError
from meshkit.outgoing import effective_timeout_s


def left_s() -> float:
    remaining = remaining_s()
    assert remaining is not None
    return remaining


def test_there_is_none_at_first() -> None:
    assert remaining_s() is None


def test_the_nearer_one_counts() -> None:
    with deadline(10):
        assert 9 < left_s() <= 10
        with deadline(100):
            assert left_s() <= 10
        with deadline(1):
            assert left_s() <= 1
        assert 9 < left_s() <= 10
    assert remaining_s() is None


def test_a_detached_one_forgets_the_surrounding_one() -> None:
    with deadline(1), deadline(100, detached=True):
        assert left_s() > 90


def test_what_has_passed_leaves_nothing() -> None:
    with deadline(-5):
        assert left_s() == 0


def test_an_exception_restores_the_surrounding_one() -> None:
    with pytest.raises(KeyError), deadline(1):
        raise KeyError
    assert remaining_s() is None


async def test_tasks_inherit_it_and_keep_their_own() -> None:
    async def narrow() -> float:
        with deadline(1):
            await asyncio.sleep(0)
            return left_s()

    with deadline(10):
        narrowed, inherited = await asyncio.gather(narrow(), asyncio.to_thread(left_s))
    assert narrowed <= 1
    assert inherited > 9


@pytest.mark.parametrize(("timeout_s", "ambient_s", "most_s"), [(5, None, 5), (None, 5, 5), (5, 1, 1), (1, 5, 1)])
def test_the_timeout_of_a_call(timeout_s: float | None, ambient_s: float | None, most_s: float) -> None:
    if ambient_s is None:
        assert effective_timeout_s("/m", timeout_s) == most_s
        return
    with deadline(ambient_s):
        assert most_s - 0.5 < effective_timeout_s("/m", timeout_s) <= most_s


@pytest.mark.parametrize("timeout_s", [0, -3])
def test_a_timeout_that_has_passed_is_past_for_certain(timeout_s: float) -> None:
    assert effective_timeout_s("/m", timeout_s) < 0
    with deadline(0):
        assert effective_timeout_s("/m", 5) < 0


def test_a_call_has_one() -> None:
    with pytest.raises(MeshError, match="/m was called without"):
        effective_timeout_s("/m", None)
