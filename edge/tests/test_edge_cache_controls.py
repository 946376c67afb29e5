"""What a request asks of the cache."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from edge_fakes import header_lines

from edge.errors import code_of
from edge.wire.cache_control import Controls, Mode, Tier, format_ppm, parse_controls
from edge.wire.header_lines import HeaderLines
from meshkit.errors import MeshError
from tallygate.cache.v1 import cache_pb2
from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.ledger.v1 import ledger_pb2

DUPLICATE = b'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "a", "content": "b"}]}'


@pytest.mark.parametrize(
    ("headers", "controls"),
    [
        ({}, Controls()),
        ({"x-tallygate-cache": ""}, Controls()),
        ({"x-tallygate-cache": "off"}, Controls(Mode.OFF)),
        ({"x-tallygate-cache": " Refresh , SAMPLED"}, Controls(Mode.REFRESH, allow_sampled=True)),
        ({"x-tallygate-cache": "only"}, Controls(Mode.ONLY)),
        ({"x-tallygate-cache": "sampled"}, Controls(allow_sampled=True)),
        ({"cache-control": "no-store"}, Controls(Mode.OFF)),
        ({"cache-control": "no-cache"}, Controls(Mode.REFRESH)),
        ({"cache-control": "no-store, no-cache"}, Controls(Mode.OFF)),
        ({"cache-control": "no-cache, no-store"}, Controls(Mode.OFF)),
        ({"cache-control": "only-if-cached"}, Controls(Mode.ONLY)),
        ({"cache-control": "max-age=60"}, Controls(max_age_s=60)),
        ({"cache-control": 'max-age="0"'}, Controls(max_age_s=0)),
        ({"cache-control": "max-age=" + "9" * 400}, Controls(max_age_s=2**31)),
        ({"cache-control": "no-transform, min-fresh=3"}, Controls()),
        ({"cache-control": "no-store", "x-tallygate-cache": "refresh"}, Controls(Mode.REFRESH)),
        ({"cache-control": "no-store", "x-tallygate-cache": "sampled"}, Controls(Mode.OFF, allow_sampled=True)),
    ],
)
def test_controls(headers: dict[str, str], controls: Controls) -> None:
    assert parse_controls(header_lines(headers)) == controls


def test_a_second_line_of_a_header_counts_too() -> None:
    lines = [(b"cache-control", b"max-age=600"), (b"cache-control", b"no-store")]
    assert parse_controls(HeaderLines(lines)) == Controls(Mode.OFF, max_age_s=600)
    with pytest.raises(MeshError, match="takes"):
        parse_controls(HeaderLines([(b"x-tallygate-cache", b"off"), (b"x-tallygate-cache", b"only")]))


def test_a_key_may_have_the_cache_off_where_a_request_does_not_say() -> None:
    def mode(**headers: str) -> Mode:
        given = header_lines({name.replace("_", "-"): value for name, value in headers.items()})
        return parse_controls(given, Controls(Mode.OFF)).mode

    assert mode() is mode(cache_control="no-cache") is mode(cache_control="max-age=5") is Mode.OFF
    assert mode(x_tallygate_cache="on") is mode(x_tallygate_cache="sampled") is Mode.DEFAULT
    assert mode(x_tallygate_cache="refresh") is Mode.REFRESH
    with pytest.raises(MeshError, match="takes"):
        mode(cache_control="max-age=soon")


SEMANTIC = Controls(up_to=Tier.SEMANTIC, max_error_ppm=20_000, ttl_s=600, share_in_org=True, record=True)
"""Of a key that stands for all there is."""


@pytest.mark.parametrize(
    ("header", "controls"),
    [
        ("", SEMANTIC),
        ("exact", replace(SEMANTIC, up_to=Tier.EXACT)),
        ("Canonical, refresh", replace(SEMANTIC, up_to=Tier.CANONICAL, mode=Mode.REFRESH)),
        ("semantic, max-error=0.01", replace(SEMANTIC, max_error_ppm=10_000)),
        ("max-error=.000001", replace(SEMANTIC, max_error_ppm=1)),
        ("max-error=0.02", SEMANTIC),
        ("ttl=60", replace(SEMANTIC, ttl_s=60)),
        ("ttl=86400", SEMANTIC),
        ("ttl=" + "9" * 5_000, SEMANTIC),
        ("on, on, exact, exact", replace(SEMANTIC, up_to=Tier.EXACT)),
    ],
)
def test_a_request_may_ask_for_less_than_its_key_stands_for(header: str, controls: Controls) -> None:
    assert parse_controls(header_lines({"x-tallygate-cache": header}), SEMANTIC) == controls


def test_a_time_to_live_needs_no_policy() -> None:
    assert parse_controls(header_lines({"x-tallygate-cache": "ttl=5"})) == Controls(ttl_s=5)
    assert parse_controls(header_lines({"cache-control": "max-age=5"}), SEMANTIC) == replace(SEMANTIC, max_age_s=5)


@pytest.mark.parametrize(
    ("header", "standing", "said"),
    [
        ("canonical", Controls(), '{"up_to": "canonical"}'),
        ("semantic", Controls(), "up to the exact tier"),
        ("semantic, max-error=0.01", Controls(up_to=Tier.CANONICAL), "up to the canonical tier"),
        ("max-error=0.020001", SEMANTIC, "up to a share of 0.02,"),
        ("max-error=1", SEMANTIC, "up to a share of 0.02,"),
    ],
)
def test_a_request_may_not_ask_for_more_than_its_key_stands_for(header: str, standing: Controls, said: str) -> None:
    with pytest.raises(MeshError) as refused:
        parse_controls(header_lines({"x-tallygate-cache": header}), standing)
    assert refused.value.reason == ErrorReason.ERROR_REASON_PERMISSION_DENIED
    assert said in refused.value.message
    assert code_of(refused.value) == "permission_denied"


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("exact, semantic", "one of exact, canonical and semantic"),
        ("ttl=0", "ttl takes a number of seconds of 1 or more"),
        ("ttl=-1", "ttl takes"),
        ("ttl=1h", "ttl takes"),
        ("ttl=", "ttl takes"),
        ("ttl", "takes one of on, off"),
        ("max-error=0", "max-error takes the share"),
        ("max-error=0.0000001", "max-error takes"),
        ("max-error=1.5", "max-error takes"),
        ("max-error=1%", "max-error takes"),
        ("max-error=1e-3", "max-error takes"),
        ("exact, max-error=0.01", "is for the semantic tier"),
    ],
)
def test_a_tier_or_a_bound_that_means_nothing_is_refused(header: str, said: str) -> None:
    with pytest.raises(MeshError, match=said) as refused:
        parse_controls(header_lines({"x-tallygate-cache": header}), SEMANTIC)
    assert refused.value.reason == ErrorReason.ERROR_REASON_INVALID_REQUEST


def test_a_share_is_written_as_a_decimal() -> None:
    assert [format_ppm(ppm) for ppm in (1, 10_000, 100_000, 1_000_000)] == ["0.000001", "0.01", "0.1", "1"]


@pytest.mark.parametrize(
    "headers",
    [
        {"x-tallygate-cache": "yes"},
        {"x-tallygate-cache": "off, only"},
        {"cache-control": "max-age"},
        {"cache-control": "max-age=soon"},
        {"cache-control": "max-age=-1"},
        {"cache-control": "max-age=²"},
    ],
)
def test_controls_that_mean_nothing_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(MeshError, match="takes"):
        parse_controls(header_lines(headers))


async def test_controls_reach_the_cache(world: Any) -> None:
    world.router.answers()
    await world.chat({"x-tallygate-cache": "refresh, sampled", "cache-control": "max-age=0"})
    controls = world.cache.lookups[0].controls
    assert controls.mode == cache_pb2.CacheControls.MODE_REFRESH
    assert controls.allow_sampled
    assert controls.HasField("max_age_s")
    assert controls.max_age_s == 0


async def test_the_policy_of_a_key_reaches_the_cache(world: Any) -> None:
    world.ledger.cache = ledger_pb2.CachePolicy(
        default=ledger_pb2.CACHE_DEFAULT_ON,
        up_to=ledger_pb2.CACHE_TIER_SEMANTIC,
        max_error_ppm=20_000,
        ttl_s=600,
        allow_sampled=True,
        share_in_org=True,
        record_requests=True,
    )
    world.router.answers()
    await world.chat()
    await world.chat({"x-tallygate-cache": "canonical, ttl=5"})
    asked = cache_pb2.CacheControls(
        mode=cache_pb2.CacheControls.MODE_DEFAULT,
        allow_sampled=True,
        up_to=cache_pb2.REPLAY_TIER_SEMANTIC,
        max_error_ppm=20_000,
        ttl_s=600,
        share_in_org=True,
        record=True,
    )
    assert world.cache.lookups[0].controls == asked
    asked.up_to, asked.ttl_s = cache_pb2.REPLAY_TIER_CANONICAL, 5
    assert world.cache.lookups[1].controls == asked
    assert (await world.chat({"x-tallygate-cache": "max-error=0.5"})).status_code == 403


async def test_what_an_organisations_keys_inherit_is_dropped_when_it_changes(world: Any) -> None:
    world.router.answers()
    await world.chat()
    assert not world.cache.lookups[-1].controls.share_in_org
    world.ledger.cache = ledger_pb2.CachePolicy(share_in_org=True)
    world.ledger.tell_organization("org_2")
    world.ledger.tell("key_2")
    asked = world.ledger.authenticated
    await world.chat()
    assert world.ledger.authenticated == asked, "another organisation's change is none of this key"
    world.ledger.tell_organization("org_1")

    async def told() -> bool:
        await world.chat()
        return bool(world.cache.lookups[-1].controls.share_in_org)

    await world.until(told)


async def test_a_ledger_of_before_cache_policies_says_whether_the_cache_is_on(world: Any) -> None:
    world.router.answers()
    world.ledger.policy.cache_default = ledger_pb2.CACHE_DEFAULT_OFF
    await world.chat()
    assert not world.cache.lookups


async def test_by_default_any_age_may_be_replayed(world: Any) -> None:
    world.router.answers()
    await world.chat()
    controls = world.cache.lookups[0].controls
    assert controls.mode == cache_pb2.CacheControls.MODE_DEFAULT
    assert not controls.HasField("max_age_s")


async def test_off_does_not_ask_the_cache_and_does_not_store(world: Any) -> None:
    world.cache.holds(stream=False)
    world.router.answers()
    response = await world.chat({"x-tallygate-cache": "off"})
    assert response.headers["x-served-mode"] == "fresh"
    assert response.headers["cache-status"] == "Tallygate; fwd=request"
    assert not world.cache.lookups
    assert not world.router.requests[0].HasField("cache_ticket")


async def test_only_is_an_error_on_a_miss(world: Any) -> None:
    response = await world.chat({"x-tallygate-cache": "only"})
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "cache_miss"
    assert not world.router.requests


@pytest.mark.parametrize("away", ["stopped", "broken", "its backend"])
async def test_only_without_the_cache_is_no_miss(world: Any, away: str) -> None:
    if away == "stopped":
        await world.stop("cache")
    elif away == "broken":
        world.cache.error = MeshError(ErrorReason.ERROR_REASON_INTERNAL, "internal error")
    else:
        miss = cache_pb2.Miss(reason=cache_pb2.Miss.REASON_UNAVAILABLE)
        world.cache.answer = cache_pb2.LookupResponse(miss=miss)
    response = await world.chat({"x-tallygate-cache": "only"})
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "unavailable"
    assert response.headers["retry-after"] == "1"
    assert not world.router.requests


async def test_only_replays_a_hit(world: Any) -> None:
    world.cache.holds(stream=False)
    assert (await world.chat({"x-tallygate-cache": "only"})).headers["x-served-mode"] == "exact"


async def test_bad_controls_are_a_bad_request(world: Any) -> None:
    assert (await world.chat({"x-tallygate-cache": "maybe"})).status_code == 400


@pytest.mark.parametrize("past_the_cache", ["off", "away"])
async def test_duplicate_keys_are_refused_past_the_cache_too(world: Any, past_the_cache: str) -> None:
    if past_the_cache == "away":
        await world.stop("cache")
    response = await world.post(DUPLICATE, {"x-tallygate-cache": "off"} if past_the_cache == "off" else {})
    assert response.status_code == 400
    assert "duplicate key: 'content'" in response.json()["error"]["message"]
    assert not world.router.requests


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"9007199254740992", "beyond 2^53-1"),
        (b"-" + b"9" * 300, "beyond 2^53-1"),
        (b"[" * 1_010 + b"]" * 1_010, "nested too deeply"),
        (b"[" * 254 + b"]" * 254, "nested too deeply"),
    ],
    ids=["2^53", "300 digits", "deep", "deeper than what the cache takes"],
)
async def test_what_has_no_canonical_form_is_refused_past_the_cache_too(world: Any, value: bytes, said: str) -> None:
    body = b'{"model": "gpt-4o-mini", "messages": [{"role": "user"}], "x": ' + value + b"}"
    response = await world.post(body, {"x-tallygate-cache": "off"})
    assert response.status_code == 400
    assert said in response.json()["error"]["message"]


async def test_a_body_with_one_meaning_passes_the_strict_check(world: Any) -> None:
    world.router.answers()
    body = (
        b'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "a"}],'
        b' "x": {"x": 9007199254740991, "y": -1.5e3, "z": [{"x": 1}, {"x": 1}]}}'
    )
    assert (await world.post(body, {"x-tallygate-cache": "off"})).status_code == 200
