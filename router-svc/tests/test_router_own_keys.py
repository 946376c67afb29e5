"""Requests of an organisation that brought its own key: which key is sent, what is held, and what a bad key does."""

from __future__ import annotations

import asyncio
import pickle
from dataclasses import replace
from typing import Any

import orjson
import pytest
from router_rig import (
    HAPPY_STREAM,
    PRINCIPAL,
    ScriptedSource,
    catalog_of,
    completion_body,
    json_answer,
    rig_over,
    serve_source,
    stream_answer,
    usage_block,
)
from structlog.testing import capture_logs

from meshkit.money import BillingTier
from meshkit.secret import Secret
from meshkit.testing import SpanCollector
from router_svc.domain.catalog import Source, WireFormat
from router_svc.domain.errors import (
    LedgerUnavailable,
    NoSource,
    ProviderKeyRejected,
    UpstreamFailed,
    UpstreamRateLimited,
    UpstreamRejected,
)
from router_svc.domain.own_key import OwnKey
from router_svc.domain.plan import Plan, RejectionReason, plan
from router_svc.domain.request import read_chat_request
from router_svc.service.pipe import FinalEvent, RouteEvent

OWN, OTHERS = "sk-own-of-acme-1234", "sk-own-of-other-5678"
OPERATORS = "Bearer sk-source-secret"
FEE_NANO_USD = 1_000
"""What the rig's catalog takes for a call with an own key."""


def own(secret: str = OWN, *, fallback: bool = True) -> OwnKey:
    return OwnKey("pk_1", Secret(secret), fallback)


def sources_of(*served: ScriptedSource, env: str = "A_KEY") -> list[Source]:
    return [Source(name, source.base_url, api_key_env=env) for name, source in zip("ab", served, strict=False)]


def authorizations(source: ScriptedSource) -> list[str]:
    return [headers.get("authorization", "") for headers in source.headers]


def answer(text: str = "Hello!") -> Any:
    return json_answer(completion_body(text, usage_block()))


def planned(*sources: Source, **own_keys: OwnKey) -> Plan:
    body = orjson.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}]})
    return plan(
        read_chat_request(body),
        "m",
        catalog_of(*sources).value,
        formats=frozenset({WireFormat.OPENAI}),
        has_secret=lambda name: name == "SET_KEY",
        own_keys=own_keys,
    )


A, B, C = (Source(name, f"http://{name}/v1", api_key_env="SET_KEY") for name in "abc")


def test_sources_with_an_own_key_come_first_at_the_fee() -> None:
    made = planned(A, B, C, c=own(), b=own())
    assert [each.source.source_id for each in made.candidates] == ["b", "c", "a"]
    assert [each.price.tier for each in made.candidates] == [
        BillingTier.BYOK,
        BillingTier.BYOK,
        BillingTier.PASSTHROUGH,
    ]
    assert [each.worst_case_nano_usd for each in made.candidates[:2]] == [FEE_NANO_USD, FEE_NANO_USD]
    # The hold is for the dearest: that of the operator, which is tried where the own ones fail.
    assert made.hold_nano_usd == made.candidates[2].worst_case_nano_usd > FEE_NANO_USD


def test_an_own_key_opens_a_source_that_the_operator_has_no_key_for() -> None:
    unset = replace(A, api_key_env="UNSET_KEY")
    with pytest.raises(NoSource):
        planned(unset).require_candidate()
    (only,) = planned(unset, a=own()).candidates
    assert (only.price.tier, only.own_key) == (BillingTier.BYOK, own())
    assert planned(unset, b=own()).candidates == ()


def test_a_key_without_fallback_keeps_requests_at_own_keys() -> None:
    made = planned(A, B, C, a=own(fallback=False), b=own())
    assert [each.source.source_id for each in made.candidates] == ["a", "b"]
    assert [(r.offer_id, r.reason) for r in made.rejections] == [("c/m", RejectionReason.OWN_KEY_ONLY)]
    assert "the organisation's key for a" in made.rejections[0].detail
    assert made.hold_nano_usd == FEE_NANO_USD


def test_a_key_that_cannot_serve_the_request_forbids_nothing() -> None:
    without_address = replace(A, base_url="")
    assert [each.source.source_id for each in planned(without_address, B, a=own(fallback=False)).candidates] == ["b"]


@pytest.mark.parametrize("stream", [True, False])
async def test_each_organisation_is_served_with_its_key(stream: bool) -> None:
    handler = stream_answer(HAPPY_STREAM) if stream else answer()
    async with serve_source(handler) as a, rig_over(catalog_of(*sources_of(a))) as rig:
        rig.provider_keys.by_org = {"org_1": {"a": own()}, "org_2": {"a": own(OTHERS)}}
        principals = [replace(PRINCIPAL, org_id=org_id) for org_id in ("org_1", "org_2", "org_3")] * 5
        await asyncio.gather(
            *(
                rig.complete(stream=stream, principal=principal, request_id=f"req_{number}")
                for number, principal in enumerate(principals)
            )
        )
        sent = sorted(authorizations(a))
        assert sent == sorted([f"Bearer {OWN}", f"Bearer {OTHERS}", OPERATORS] * 5)
        tiers = [rig.ledger.settled[f"req_{number}"][0].price.tier for number in range(3)]
        assert tiers == [BillingTier.BYOK, BillingTier.BYOK, BillingTier.PASSTHROUGH]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("status", [401, 402, 403])
async def test_a_bad_key_is_an_error_that_names_the_source_and_goes_nowhere_else(status: int, stream: bool) -> None:
    refused = json_answer(orjson.dumps({"error": {"message": f"Incorrect API key provided: {OWN}"}}), status)
    async with serve_source(refused) as a, serve_source(answer()) as b, rig_over(catalog_of(*sources_of(a, b))) as rig:
        rig.provider_keys.by_org = {"org_1": {"a": own()}}
        with pytest.raises(ProviderKeyRejected, match=rf"^a refused the provider key .* \(HTTP {status}\)") as raised:
            await rig.complete(stream=stream)
        assert raised.value.metadata == {"source_id": "a"}
        assert (authorizations(a), b.calls) == ([f"Bearer {OWN}"], 0)
        assert (rig.ledger.open_holds, rig.ledger.settled) == ({}, {})
        reason, attempts = rig.ledger.released["req_1"]
        assert reason == "ProviderKeyRejected"
        assert [(each.offer_id, each.http_status, each.failure) for each in attempts] == [
            ("a/m", status, "key_rejected")
        ]
        assert OWN not in str(raised.value)


async def test_a_bad_operators_key_is_still_another_sources_turn() -> None:
    async with (
        serve_source(json_answer(b"{}", 401)) as a,
        serve_source(answer()) as b,
        rig_over(catalog_of(*sources_of(a, b))) as rig,
    ):
        events = await rig.complete(stream=False)
        assert isinstance(events[-1], FinalEvent)
        assert (a.calls, b.calls) == (1, 1)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_source_that_fails_gives_way_to_the_operators(status: int) -> None:
    async with (
        serve_source(json_answer(b"{}", status)) as a,
        serve_source(answer()) as b,
        rig_over(catalog_of(*sources_of(a, b))) as rig,
    ):
        rig.provider_keys.by_org = {"org_1": {"a": own()}}
        route = (await rig.complete(stream=False))[0]
        assert isinstance(route, RouteEvent)
        assert (route.source_id, route.failed_attempts) == ("b", 1)
        assert authorizations(b) == [OPERATORS]
        facts, attempts = rig.ledger.settled["req_1"]
        assert (facts.price.tier, facts.source_id) == (BillingTier.PASSTHROUGH, "b")
        assert [each.won for each in attempts] == [False, True]


@pytest.mark.parametrize(("status", "error"), [(429, UpstreamRateLimited), (500, UpstreamFailed)])
async def test_a_source_that_fails_gives_way_to_nobody_where_its_key_says_so(
    status: int, error: type[Exception]
) -> None:
    async with (
        serve_source(json_answer(b"{}", status)) as a,
        serve_source(answer()) as b,
        rig_over(catalog_of(*sources_of(a, b))) as rig,
    ):
        rig.provider_keys.by_org = {"org_1": {"a": own(fallback=False)}}
        with pytest.raises(error):
            await rig.complete(stream=False)
        assert (a.calls, b.calls, rig.ledger.open_holds) == (1, 0, {})


async def test_keys_that_cannot_be_known_stop_the_request_before_anything_is_held() -> None:
    async with serve_source(answer()) as a, rig_over(catalog_of(*sources_of(a))) as rig:
        rig.provider_keys.away = True
        with pytest.raises(LedgerUnavailable):
            await rig.begin(stream=False)
        assert (a.calls, rig.ledger.log) == (0, [])


async def test_the_secret_shows_nowhere() -> None:
    """Not in errors, spans, logs, attempts, or the text of what is passed around; also where the source repeats it."""
    said = {"error": {"message": f"bad value: {OWN}", "param": "x"}}
    spans = SpanCollector()
    async with (
        serve_source(json_answer(orjson.dumps(said), 422), json_answer(b"{}", 401), stream_answer(HAPPY_STREAM)) as a,
        rig_over(catalog_of(*sources_of(a)), telemetry=spans.telemetry("router")) as rig,
    ):
        rig.provider_keys.by_org = {"org_1": {"a": own()}}
        with capture_logs() as logs:
            with pytest.raises(UpstreamRejected) as rejected:
                await rig.complete(request_id="req_1")
            with pytest.raises(ProviderKeyRejected) as refused:
                await rig.complete(request_id="req_2")
            await rig.complete(request_id="req_3")
        chosen = await rig.service.plan("org_1", "m", _body())
        shown = [
            *(str(error.value) + repr(error.value.__dict__) for error in (rejected, refused)),
            repr(logs),
            repr(spans.finished()) + "".join(span.to_json() for span in spans.finished()),
            repr(rig.ledger),
            repr(chosen) + str(chosen.candidates[0].own_key),
        ]
        assert "[key]" in str(rejected.value)
        assert authorizations(a) == [f"Bearer {OWN}"] * 3
        assert [text for text in shown if OWN in text] == []
        with pytest.raises(TypeError, match="pickled"):
            pickle.dumps(chosen.candidates[0].own_key)


def _body() -> bytes:
    return orjson.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}]})
