"""Whom a request can go to, in which order, and the most that it can cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from router_rig import MODEL, catalog_of, price

from meshkit.money import BillingTier, PriceSnapshot, Usage, charge_nano_usd, worst_case_nano_usd
from router_svc.domain.catalog import Capabilities, CatalogSnapshot, Model, Offer, Source, WireFormat
from router_svc.domain.errors import InvalidRequest, ModelNotFound, NoSource, PriceUnknown
from router_svc.domain.images import ANY_IMAGE_TOKENS, LOW_DETAIL_TOKENS
from router_svc.domain.plan import Plan, RejectionReason, plan
from router_svc.domain.request import TEMPLATE_TOKENS, TOOLS_TEMPLATE_TOKENS, read_chat_request

A = Source("a", "http://a/v1")
B = Source("b", "http://b/v1")


def body_of(**fields: Any) -> bytes:
    return orjson.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields})


def planned(
    body: bytes | None = None, *sources: Source, model: Model = MODEL, prices: Sequence[PriceSnapshot] = ()
) -> Plan:
    return plan_over(body, catalog_of(*(sources or (A,)), model=model, prices=prices).value)


def plan_over(body: bytes | None, snapshot: CatalogSnapshot, model_id: str = "m") -> Plan:
    return plan(
        read_chat_request(body or body_of()),
        model_id,
        snapshot,
        formats=frozenset({WireFormat.OPENAI}),
        has_secret=lambda name: name == "SET_KEY",
    )


def only_rejection(made: Plan) -> tuple[RejectionReason, str]:
    assert made.candidates == ()
    (rejection,) = made.rejections
    return rejection.reason, rejection.detail


def test_an_unknown_model() -> None:
    with pytest.raises(ModelNotFound) as raised:
        plan_over(None, catalog_of(A).value, "other")
    assert raised.value.metadata == {"param": "model"}


@pytest.mark.parametrize(
    ("source", "reason", "detail"),
    [
        (Source("a", ""), RejectionReason.NOT_CONFIGURED, "the source has no address"),
        (replace(A, api_key_env="UNSET"), RejectionReason.NOT_CONFIGURED, "UNSET is not set"),
        (replace(A, wire_format=WireFormat.ANTHROPIC), RejectionReason.WIRE_FORMAT, "no adapter for anthropic"),
        (replace(A, wire_format=WireFormat.UNKNOWN), RejectionReason.WIRE_FORMAT, "no adapter for unknown"),
    ],
)
def test_sources_that_can_not_be_called(source: Source, reason: RejectionReason, detail: str) -> None:
    assert only_rejection(planned(None, source)) == (reason, detail)


def test_a_source_whose_key_is_set_is_called() -> None:
    assert len(planned(None, replace(A, api_key_env="SET_KEY")).candidates) == 1


def test_an_offer_of_a_source_that_is_gone() -> None:
    snapshot = replace(catalog_of(A).value, sources={})
    assert only_rejection(plan_over(None, snapshot))[0] is RejectionReason.NOT_CONFIGURED


TOOL = {"type": "function", "function": {"name": "f"}}
IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}]


@pytest.mark.parametrize(
    ("fields", "lacks"),
    [
        ({"tools": [TOOL]}, "tools"),
        ({"functions": [{"name": "f"}]}, "tools"),
        ({"messages": IMAGE}, "vision"),
        ({"response_format": {"type": "json_object"}}, "json_object"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "s"}}}, "json_schema"),
        ({"tools": [TOOL], "messages": IMAGE}, "tools, vision"),
    ],
)
def test_what_a_model_lacks(fields: dict[str, Any], lacks: str) -> None:
    bare = replace(MODEL, context_tokens=10**6, capabilities=Capabilities())
    able = replace(MODEL, context_tokens=10**6)
    assert only_rejection(planned(body_of(**fields), model=bare)) == (
        RejectionReason.CAPABILITY,
        f"the model lacks {lacks}",
    )
    assert len(planned(body_of(**fields), model=able).candidates) == 1


@pytest.mark.parametrize("fields", [{"tools": []}, {"tools": None}, {"response_format": {"type": "text"}}])
def test_what_needs_nothing(fields: dict[str, Any]) -> None:
    assert len(planned(body_of(**fields), model=replace(MODEL, capabilities=Capabilities())).candidates) == 1


def test_the_cheapest_worst_case_is_tried_first_then_the_name_decides() -> None:
    c = Source("c", "http://c/v1")
    prices = [price("c/m", input_usd=1), price("b/m", input_usd=1), price("a/m", input_usd=5)]
    made = planned(None, c, B, A, prices=prices)
    assert [candidate.offer.offer_id for candidate in made.candidates] == ["b/m", "c/m", "a/m"]
    assert made.hold_nano_usd == made.candidates[-1].worst_case_nano_usd
    assert made.catalog_revision == "rev1"


def test_prices_that_are_unknown() -> None:
    unpriced = Offer("a/m", "m", "a", "up", None)
    snapshot = replace(catalog_of(A).value, offers={"m": (unpriced,)})
    made = plan_over(None, snapshot)
    assert only_rejection(made)[0] is RejectionReason.PRICE_UNKNOWN
    with pytest.raises(PriceUnknown):
        made.require_candidate()


def test_a_free_offer_needs_no_price() -> None:
    free = PriceSnapshot("a/m", BillingTier.FREE, ())
    made = planned(None, A, prices=[free])
    assert (len(made.candidates), made.hold_nano_usd) == (1, 0)


def test_without_a_source_the_reasons_are_told() -> None:
    snapshot = replace(
        catalog_of(A, Source("b", "")).value,
        offers={
            "m": (
                Offer("a/m", "m", "a", "up", None),
                Offer("b/m", "m", "b", "up", price("b/m")),
                Offer("a/m2", "m", "a", "up", price("a/m2"), context_tokens=10, max_output_tokens=20),
            )
        },
    )
    with pytest.raises(NoSource) as raised:
        plan_over(body_of(max_tokens=15), snapshot).require_candidate()
    assert raised.value.metadata == {
        "a/m": "price_unknown: the offer has no price",
        "a/m2": "context: an answer of 15 tokens is beyond the context of 10",
        "b/m": "not_configured: the source has no address",
    }
    with pytest.raises(NoSource):
        plan_over(None, replace(snapshot, offers={})).require_candidate()


@pytest.mark.parametrize(
    ("fields", "prompt_extra", "answer"),
    [
        ({}, 0, 1_000),
        ({"max_tokens": 7}, 0, 7),
        ({"max_completion_tokens": 9}, 0, 9),
        ({"max_tokens": 7, "max_completion_tokens": 9}, 0, 9),
        ({"max_tokens": 7, "n": 3}, 0, 21),
        ({"n": 3}, 0, 3_000),
        ({"max_tokens": 5_000}, 0, 5_000),
        ({"max_tokens": 7, "best_of": 4}, 0, 28),
        ({"max_tokens": 7, "n_predict": 400}, 0, 10**6),
        ({"tools": [{"type": "function"}], "max_tokens": 7}, TOOLS_TEMPLATE_TOKENS, 7),
        ({"messages": IMAGE}, ANY_IMAGE_TOKENS, 1_000),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "x"},
                            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}},
                        ],
                    }
                ]
            },
            ANY_IMAGE_TOKENS - len("data:image/png;base64,AA"),
            1_000,
        ),
    ],
)
def test_the_hold_is_the_worst_case(fields: dict[str, Any], prompt_extra: int, answer: int) -> None:
    body = body_of(**fields)
    model = replace(MODEL, context_tokens=10**6)
    expected = worst_case_nano_usd(
        price("a/m"), prompt_tokens=len(body) + TEMPLATE_TOKENS + prompt_extra, answer_tokens=answer
    )
    made = planned(body, model=model)
    assert made.hold_nano_usd == expected
    assert made.hold_tokens == len(body) + TEMPLATE_TOKENS + prompt_extra + answer


def with_image(url: str, **image: Any) -> bytes:
    parts = [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": url, **image}}]
    return body_of(messages=[{"role": "user", "content": parts}], max_tokens=10)


@pytest.mark.parametrize(
    ("model_id", "url", "image", "most"),
    [
        # Few bytes, many tokens: a URL elsewhere is no less of an image.
        ("gpt-4o-mini", "https://example.com/cat.png", {}, ANY_IMAGE_TOKENS),
        ("gpt-4o-mini", "https://example.com/cat.png", {"detail": "low"}, LOW_DETAIL_TOKENS),
        ("gpt-4o-mini", "data:image/png;base64,AA", {"detail": "low"}, LOW_DETAIL_TOKENS),
        ("claude-opus-4-5", "https://example.com/cat.png", {"detail": "low"}, ANY_IMAGE_TOKENS),
        ("qwen3-vl-plus", "data:image/png;base64,AA", {"detail": "low"}, ANY_IMAGE_TOKENS),
        ("gemini-2.5-pro", "data:image/png;base64,AA", {}, ANY_IMAGE_TOKENS),
        ("gemini-2.5-pro", "https://example.com/report.pdf", {}, None),
        ("gemini-2.5-pro", "data:application/pdf;base64,AA", {}, None),
        ("gpt-4o-mini", "data:video/mp4;base64,AA", {}, None),
    ],
)
def test_an_image_is_held_for_by_what_its_source_may_count(
    model_id: str, url: str, image: dict[str, Any], most: int | None
) -> None:
    model = replace(MODEL, model_id=model_id, context_tokens=10**6)
    body = with_image(url, **image)
    text = len(body) + TEMPLATE_TOKENS - (len(url) if url.startswith("data:") else 0)
    (made,) = plan_over(body, catalog_of(A, model=model).value, model_id).candidates
    assert made.most_prompt_tokens == (10**6 if most is None else text + most)
    assert made.worst_case_nano_usd == worst_case_nano_usd(
        made.price, prompt_tokens=made.most_prompt_tokens, answer_tokens=10
    )


def test_the_prompts_bound_is_never_above_the_context() -> None:
    part = {"type": "file", "file": {"file_data": "AA"}}
    for content in ("word " * 5_000, [part]):
        body = body_of(messages=[{"role": "user", "content": content}], max_tokens=10)
        expected = worst_case_nano_usd(price("a/m"), prompt_tokens=8_000, answer_tokens=10)
        assert planned(body).hold_nano_usd == expected


def test_the_tighter_limits_of_an_offer_count() -> None:
    tight = Offer("a/m", "m", "a", "up", price("a/m"), context_tokens=1_000, max_output_tokens=50)
    snapshot = replace(catalog_of(A).value, offers={"m": (tight,)})
    body = body_of(messages=[{"role": "user", "content": "x" * 5_000}])
    made = plan_over(body, snapshot)
    assert made.hold_nano_usd == worst_case_nano_usd(price("a/m"), prompt_tokens=1_000, answer_tokens=50)


def test_a_rejected_prediction_is_billed_as_answer() -> None:
    body = body_of(max_tokens=10, prediction={"type": "content", "content": "x" * 100})
    expected = worst_case_nano_usd(
        price("a/m"), prompt_tokens=len(body) + TEMPLATE_TOKENS, answer_tokens=10 + len(body)
    )
    assert planned(body).hold_nano_usd == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": "word " * 40_000}]},
        {"max_tokens": 9_000},
    ],
)
def test_what_can_not_fit_the_context(fields: dict[str, Any]) -> None:
    model = replace(MODEL, max_output_tokens=20_000)
    assert only_rejection(planned(body_of(**fields), model=model))[0] is RejectionReason.CONTEXT


def test_a_long_prompt_that_may_fit_is_left_to_the_source() -> None:
    assert len(planned(body_of(messages=[{"role": "user", "content": "word " * 7_000}])).candidates) == 1


def test_without_limits_there_is_no_bound() -> None:
    unknown = replace(MODEL, context_tokens=0, max_output_tokens=0)
    assert only_rejection(planned(model=unknown))[0] is RejectionReason.CONTEXT
    assert len(planned(body_of(max_tokens=10), model=unknown).candidates) == 1


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b'"x"', None),
        (b'{"messages":[{"content":"\\ud800"}]}', None),
        (b"{}", "messages"),
        (body_of(messages=[]), "messages"),
        (body_of(messages="x"), "messages"),
        (body_of(max_tokens=0), "max_tokens"),
        (body_of(max_tokens="9"), "max_tokens"),
        (body_of(max_completion_tokens=True), "max_completion_tokens"),
        (body_of(max_tokens=1.5), "max_tokens"),
        (body_of(n=0), "n"),
        (body_of(n=129), "n"),
        (body_of(n=True), "n"),
    ],
)
def test_bodies_that_are_refused(body: bytes, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read_chat_request(body)
    assert raised.value.metadata.get("param") == param


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"service_tier": "priority"}, "service_tier 'priority'"),
        ({"service_tier": "flex"}, "service_tier 'flex'"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"modalities": ["text", "audio"]}, "modalities other than text"),
        ({"modalities": ["image"]}, "modalities other than text"),
        ({"modalities": 5}, "modalities other than text"),
        ({"models": ["dear/one"]}, "models"),
        ({"plugins": [{"id": "web"}]}, "plugins"),
        ({"search_parameters": {"mode": "on"}}, "search_parameters"),
        ({"enable_search": True}, "enable_search"),
        ({"provider": {"order": ["x"]}}, "provider"),
        ({"service_tier": ["priority"]}, "service_tier ['priority']"),
        ({"tools": [{"type": {}}]}, "the hosted tool {}"),
        ({"tools": [{"type": "web_search"}]}, "the hosted tool 'web_search'"),
    ],
)
def test_what_a_source_bills_apart_from_tokens_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    reason, detail = only_rejection(planned(body_of(**fields)))
    assert (reason, detail) == (RejectionReason.PRICE_UNKNOWN, f"no price is known for {named}")
    with pytest.raises(PriceUnknown, match="can't be held"):
        planned(body_of(**fields)).require_candidate()


def test_a_request_that_the_model_can_not_take_is_the_clients_to_change() -> None:
    blind = replace(MODEL, capabilities=Capabilities(tools=True))
    image = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}
    body = body_of(messages=[{"role": "user", "content": [image]}])
    for sources in ((A,), (A, Source("not-set-up", "http://b/v1", api_key_env="UNSET_KEY"))):
        with pytest.raises(InvalidRequest, match="lacks vision"):
            planned(body, *sources, model=blind).require_candidate()


@pytest.mark.parametrize("name", ["Max_Tokens", "MODEL", "Stream_Options", "N"])
def test_a_field_that_a_careless_source_would_take_for_another_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="did you mean"):
        read_chat_request(body_of(**{name: 1}))


@pytest.mark.parametrize(
    "fields",
    [{"enable_search": False}, {"models": []}, {"provider": {"allow_fallbacks": False}}, {"modalities": ["text"]}],
)
def test_what_asks_for_nothing_apart_is_served(fields: dict[str, Any]) -> None:
    assert planned(body_of(**fields)).candidates


@pytest.mark.parametrize("tier", [None, "auto", "default"])
def test_the_usual_service_tier_is_what_offers_state(tier: str | None) -> None:
    assert planned(body_of(service_tier=tier)).candidates


@given(
    content=st.text(max_size=200),
    answer=st.integers(1, 1_000),
    choices=st.integers(1, 4),
    cached_share=st.floats(0, 1),
    reasoning_share=st.floats(0, 1),
)
def test_no_honest_usage_costs_more_than_the_hold(
    content: str, answer: int, choices: int, cached_share: float, reasoning_share: float
) -> None:
    body = orjson.dumps({"messages": [{"role": "user", "content": content}], "max_tokens": answer, "n": choices})
    made = planned(body, A, B)
    prompt_tokens = min(len(content.encode()) + 20, 8_000)  # a tokenizer makes at most a token of each byte
    cached, reasoning = int(prompt_tokens * cached_share), int(answer * choices * reasoning_share)
    usage = Usage(
        input_tokens=prompt_tokens - cached,
        cached_input_tokens=cached,
        output_tokens=answer * choices - reasoning,
        reasoning_tokens=reasoning,
    )
    for candidate in made.candidates:
        assert charge_nano_usd(candidate.price, usage) <= made.hold_nano_usd
