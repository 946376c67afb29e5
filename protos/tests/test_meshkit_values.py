"""Ids, clocks, and the plain types to and from the wire."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit import codec
from meshkit.clock import Clock, SystemClock
from meshkit.ids import id_of, new_id
from meshkit.money import USAGE_CLASSES, BillingTier, PriceSnapshot, Provenance, Rates, RateTier, Usage
from meshkit.principal import Principal
from meshkit.randomness import PIECES, Supply
from meshkit.testing import FakeClock
from tallygate.common.v1 import money_pb2

int64 = st.integers(0, 2**63 - 1)
ALPHABET = set("0123456789abcdefghjkmnpqrstvwxyz")


def test_an_id_names_its_kind_and_is_of_one_length() -> None:
    kind, _, rest = new_id("rcpt").partition("_")
    assert kind == "rcpt"
    assert len(rest) == 26
    assert ALPHABET.issuperset(rest)


@given(st.lists(st.integers(0, 2**47), min_size=2, max_size=5, unique=True))
def test_ids_sort_by_their_time(times_ms: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        ids = []
        for time_ms in sorted(times_ms):
            patch.setattr(time, "time_ns", lambda time_ms=time_ms: time_ms * 1_000_000)
            ids.append(new_id("req"))
    assert ids == sorted(ids)


def test_ids_of_the_same_millisecond_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_750_000_000_000_000_000)
    ids = {new_id("req") for _ in range(1_000)}
    assert len(ids) == 1_000
    assert len({one[:14] for one in ids}) == 1  # prefix and the ten characters of the time


def test_a_supply_gives_no_piece_twice_across_fetches_and_threads() -> None:
    supply = Supply(8)
    with ThreadPoolExecutor(4) as pool:
        pieces = list(pool.map(lambda _: supply.take(), range(3 * PIECES)))
    assert {len(piece) for piece in pieces} == {8}
    assert len(set(pieces)) == 3 * PIECES


def test_a_child_has_other_random_bytes_than_its_parent() -> None:
    reading, writing = os.pipe()
    supply = Supply(16)
    supply.take()
    child = os.fork()
    if not child:
        os.write(writing, b"".join(supply.take() for _ in range(PIECES)))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    theirs = os.read(reading, 16 * PIECES)
    assert status == 0
    assert len(theirs) == 16 * PIECES
    assert not {supply.take() for _ in range(PIECES)} & {theirs[at : at + 16] for at in range(0, len(theirs), 16)}


def test_two_revisions_of_a_price_travel_as_what_they_are() -> None:
    price = PriceSnapshot("a/m", BillingTier.FREE, (), catalog_revision="one")
    other = replace(price, catalog_revision="two")
    assert price == other
    there_and_back = [codec.price_from_proto(codec.price_to_proto(each)).catalog_revision for each in (price, other)]
    assert there_and_back == ["one", "two"]


def test_a_message_that_was_made_of_a_price_is_the_callers_own() -> None:
    price = PriceSnapshot("a/m", BillingTier.FREE, ())
    codec.price_to_proto(price).offer_id = "spoiled"
    codec.principal_to_proto(Principal("org", "proj", "key")).org_id = "spoiled"
    assert codec.price_to_proto(price).offer_id == "a/m"
    assert codec.principal_to_proto(Principal("org", "proj", "key")).org_id == "org"


def test_a_fake_clock_moves_when_told() -> None:
    clock: Clock = (fake := FakeClock(now_ms=1_000))
    before_s = clock.monotonic_s()
    fake.advance(1_500)
    assert (clock.now_ms(), clock.monotonic_s() - before_s) == (2_500, 1.5)
    with pytest.raises(AssertionError, match="back"):
        fake.advance(-1)


def test_the_systems_clock_agrees_with_time() -> None:
    clock: Clock = SystemClock()
    assert abs(clock.now_ms() - time.time() * 1_000) < 1_000
    assert clock.monotonic_s() <= clock.monotonic_s()


@given(st.builds(Usage, **dict.fromkeys(USAGE_CLASSES, int64), provenance=st.sampled_from(Provenance)))
def test_usage_survives_the_wire(usage: Usage) -> None:
    message = money_pb2.Usage.FromString(codec.usage_to_proto(usage).SerializeToString())
    assert codec.usage_from_proto(message) == usage


@given(
    st.builds(Rates, **dict.fromkeys(Rates.__dataclass_fields__, int64)),
    st.sampled_from(BillingTier),
    st.integers(0, 10_000),
    st.text(max_size=20),
)
def test_prices_survive_the_wire(rates: Rates, tier: BillingTier, bps: int, text: str) -> None:
    tiers = (RateTier(0, rates), RateTier(128_000, rates))
    price = PriceSnapshot(f"s/{text}", tier, tiers, bps, bps, text, text, text, text)
    message = money_pb2.PriceSnapshot.FromString(codec.price_to_proto(price).SerializeToString())
    decoded = codec.price_from_proto(message)
    assert decoded == price
    assert decoded.catalog_revision == price.catalog_revision


@pytest.mark.parametrize(
    ("message", "decode"),
    [
        (money_pb2.Usage(), codec.usage_from_proto),
        (money_pb2.Usage(input_tokens=-1, provenance=money_pb2.USAGE_PROVENANCE_PROVIDER), codec.usage_from_proto),
        (money_pb2.PriceSnapshot(), codec.price_from_proto),
        (money_pb2.PriceSnapshot(tier=money_pb2.BILLING_TIER_FLAT), codec.price_from_proto),
    ],
)
def test_what_was_left_out_is_not_taken_for_something(message: object, decode: object) -> None:
    assert callable(decode)
    with pytest.raises(ValueError, match=r".+"):
        decode(message)


def test_every_enum_value_has_its_counterpart() -> None:
    pairs = ((Provenance, money_pb2.UsageProvenance), (BillingTier, money_pb2.BillingTier))
    for plain, wire in pairs:
        assert {member.value for member in plain} == set(wire.values()) - {0}
        for member in plain:
            assert wire.Name(member.value).endswith(f"_{member.name}")


def test_a_principal_survives_the_wire() -> None:
    principal = Principal("org_1", "prj_1", "key_1", ("openai/*", "local/smollm2-135m-instruct"))
    assert codec.principal_from_proto(codec.principal_to_proto(principal)) == principal


def test_an_id_of_something_is_always_the_same_and_of_nothing_else() -> None:
    one = id_of("req", "org_a", "key_a", "retry-1")
    assert one == id_of("req", "org_a", "key_a", "retry-1")
    assert (len(one), one[:4]) == (len(new_id("req")), "req_")
    others = {id_of("req", *parts) for parts in (("a", "bc"), ("ab", "c"), ("a", "b", "c"), ("abc",), ())}
    assert len(others) == 5
