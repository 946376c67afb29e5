"""What may become of a flight: the rules, without a store."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_svc.domain.flight import (
    AnotherContent,
    Ending,
    Flight,
    Pass,
    Unreadable,
    abandoned,
    boarded,
    flight_name,
    from_bytes,
    landed,
    renewed,
    to_bytes,
)

BODY, OTHER_BODY = b"b" * 32, b"o" * 32
NAME = b"n" * 32
LED = Flight(fingerprint=BODY, token="a", lease_until_ms=100)
MINE = Pass(NAME, "a", 0, BODY)


def board(flight: Flight, token: str = "b", body: bytes = BODY, now_ms: int = 50) -> Flight | None:
    return boarded(flight, token, body, lease_until_ms=now_ms + 100, now_ms=now_ms)


def test_the_first_to_board_leads_and_the_next_does_not() -> None:
    assert board(Flight(), "a") == Flight(fingerprint=BODY, token="a", lease_until_ms=150)
    assert board(LED) is None
    assert board(replace(LED, landing=b"")) is None


def test_a_leader_that_asks_again_still_leads() -> None:
    assert board(LED, "a") == replace(LED, lease_until_ms=150)


def test_whoever_boards_after_the_lease_leads_the_same_run() -> None:
    taken = board(LED, now_ms=100)
    assert taken == Flight(fingerprint=BODY, token="b", lease_until_ms=200, inherited=True)


@pytest.mark.parametrize(
    "flight", [LED, replace(LED, lease_until_ms=0), replace(LED, token=""), replace(LED, landing=b"x")]
)
def test_another_content_is_refused_as_long_as_the_first_may_be_charged(flight: Flight) -> None:
    with pytest.raises(AnotherContent, match="another body"):
        board(flight, body=OTHER_BODY)


@pytest.mark.parametrize(("ending", "run"), [(Ending.NOTHING_HELD, 0), (Ending.RELEASED, 1)])
def test_after_an_end_without_a_charge_another_content_may_come(ending: Ending, run: int) -> None:
    left = abandoned(LED, MINE, ending)
    assert left == Flight(run=run)
    lead = board(left, body=OTHER_BODY)
    assert lead is not None
    assert (lead.run, lead.fingerprint, lead.inherited) == (run, OTHER_BODY, False)


def test_after_an_end_that_is_not_known_the_content_and_the_run_stay() -> None:
    left = abandoned(LED, MINE, Ending.UNKNOWN)
    assert left == Flight(fingerprint=BODY)
    assert board(left) == Flight(fingerprint=BODY, token="b", lease_until_ms=150, inherited=True)


def test_a_lead_taken_over_that_held_nothing_says_nothing_of_the_one_before() -> None:
    taken = board(LED, now_ms=100)
    assert taken is not None
    assert abandoned(taken, Pass(NAME, "b", 0, BODY), Ending.NOTHING_HELD) == Flight(fingerprint=BODY)


@pytest.mark.parametrize(
    "ticket", [replace(MINE, token="b"), replace(MINE, run=1)], ids=["another leader", "another run"]
)
def test_only_the_leader_renews_and_abandons(ticket: Pass) -> None:
    assert renewed(LED, ticket, 500) is None
    assert all(abandoned(LED, ticket, ending) is None for ending in Ending)
    assert renewed(LED, MINE, 500) == replace(LED, lease_until_ms=500)


def test_nobody_renews_or_abandons_what_has_landed() -> None:
    down = landed(LED, MINE, b"answer")
    assert down is not None
    assert renewed(down, MINE, 500) is None
    assert all(abandoned(down, MINE, ending) is None for ending in Ending)
    assert landed(down, MINE, b"another") is None


def test_whoever_was_charged_lands_though_another_leads_by_now() -> None:
    taken = board(LED, now_ms=100)
    assert taken is not None
    down = landed(taken, MINE, b"answer")
    assert down is not None
    assert down.landing == b"answer"


def test_a_lost_record_is_landed_as_the_pass_has_it() -> None:
    down = landed(Flight(), replace(MINE, run=3), b"answer")
    assert down == Flight(run=3, fingerprint=BODY, token="a", landing=b"answer")


@pytest.mark.parametrize("flight", [Flight(run=1), replace(LED, run=1), replace(LED, fingerprint=OTHER_BODY)])
def test_an_answer_of_another_run_or_content_does_not_land(flight: Flight) -> None:
    assert landed(flight, MINE, b"answer") is None


def test_names_are_of_one_scope() -> None:
    names = [flight_name("k", *scope) for scope in (("a", "bc"), ("ab", "c"), ("abc",), ("a", "b", "c"))]
    names.append(flight_name("l", "a", "bc"))
    assert len(set(names)) == len(names)
    assert {len(name) for name in names} == {32}


@given(
    st.builds(
        Flight,
        run=st.integers(0, 2**31),
        fingerprint=st.binary(max_size=32),
        token=st.text(max_size=40),
        lease_until_ms=st.integers(0, 2**53),
        inherited=st.booleans(),
        landing=st.none() | st.binary(max_size=200),
    )
)
def test_a_flight_comes_back_from_its_bytes(flight: Flight) -> None:
    assert from_bytes(to_bytes(flight)) == flight


@pytest.mark.parametrize("blob", [b"", b"\0\0", b"\0\0\0\2{}", b"\0\0\0\2[]", b"\0\0\0\x09no json at"])
def test_bytes_that_are_no_flight_are_said_to_be_none(blob: bytes) -> None:
    with pytest.raises(Unreadable):
        from_bytes(blob)
