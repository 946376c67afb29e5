"""The key: what changes it and what does not, a property for each sentence of the recipe."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_svc.domain.request import NOT_IN_KEY, epoch_name
from meshkit.principal import Principal

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))
FIELDS = st.sampled_from(
    ["messages", "tools", "temperature", "top_p", "seed", "n", "stop", "logit_bias", "response_format", "max_tokens"]
) | TEXT.filter(lambda name: name not in NOT_IN_KEY | {"model", "user"})
BODIES = st.dictionaries(FIELDS, JSON, max_size=6)

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "f",
        "parameters": {"type": "object", "properties": {"reason": {"type": "string"}, "answer": {"type": "integer"}}},
    },
}


def shuffled(value: Any, order: Any) -> Any:
    """The same JSON value with the keys of every object in another order, but for schemas' `properties`."""
    if isinstance(value, dict):
        names = list(value)
        order.shuffle(names)
        return {name: shuffled(value[name], order) for name in names}
    return [shuffled(item, order) for item in value] if isinstance(value, list) else value


@given(BODIES, st.randoms(use_true_random=False), st.booleans(), st.sampled_from([None, 2]))
def test_a_reserialised_request_has_the_same_key(
    sample: Any, body: dict[str, Any], order: Any, ascii_only: bool, indent: int | None
) -> None:
    again = json.dumps(shuffled(body, order), ensure_ascii=ascii_only, indent=indent).encode()
    assert sample.key(again) == sample.key(body)
    assert sample.read(again).canonical == sample.read(body).canonical


def same_json(one: Any, other: Any) -> bool:
    return orjson.dumps(one, option=orjson.OPT_SORT_KEYS) == orjson.dumps(other, option=orjson.OPT_SORT_KEYS)


@given(BODIES, FIELDS, JSON)
def test_any_field_outside_the_deny_list_changes_the_key(
    sample: Any, body: dict[str, Any], name: str, value: Any
) -> None:
    changed = {**body, name: value}
    assert (sample.key(changed) == sample.key(body)) == (name in body and same_json(body[name], value))
    if name in body:
        assert sample.key({k: v for k, v in body.items() if k != name}) != sample.key(body)


@given(JSON, JSON)
def test_any_change_inside_a_message_changes_the_key(sample: Any, one: Any, other: Any) -> None:
    first, second = ({"messages": [{"role": "user", "content": content}]} for content in (one, other))
    assert (sample.key(first) == sample.key(second)) == same_json(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"messages": ["a", "b"]}, {"messages": ["b", "a"]}),
        ({"stop": "é"}, {"stop": "e\u0301"}),
        ({"stop": " x"}, {"stop": "x"}),
        ({"stop": "X"}, {"stop": "x"}),
        ({"top_p": 1}, {"top_p": 1.0}),
        ({"n": 1}, {"n": True}),
        ({"seed": 0}, {"seed": None}),
        ({"seed": None}, {}),
        ({"n": 1}, {}),
        ({"tool_choice": "auto"}, {}),
        ({"logprobs": False}, {}),
        ({"safety_identifier": "a"}, {"safety_identifier": "b"}),
        ({"service_tier": "flex"}, {"service_tier": "priority"}),
        ({"models": ["a", "b"]}, {"models": ["a"]}),
    ],
)
def test_nothing_is_normalised_or_filled_in(sample: Any, one: dict[str, Any], other: dict[str, Any]) -> None:
    assert sample.key(one) != sample.key(other)


@given(st.sampled_from(sorted(NOT_IN_KEY)), JSON)
def test_a_field_of_the_deny_list_does_not_change_the_key(sample: Any, name: str, value: Any) -> None:
    assert sample.key({**sample.request, name: value}) == sample.key()


def test_the_deny_list_is_short_and_known() -> None:
    assert {
        "stream", "stream_options", "metadata", "prompt_cache_key", "tallygate",
        "trace_id", "request_id", "traceparent", "tracestate",
    } == NOT_IN_KEY  # fmt: skip


def test_the_deny_list_holds_at_the_top_of_the_body_only(sample: Any) -> None:
    plain = {"messages": [{"role": "user", "content": "a"}]}
    for name in NOT_IN_KEY | {"user", "model"}:
        assert sample.key({"messages": [{**plain["messages"][0], name: True}]}) != sample.key(plain)


def test_the_resolved_model_stands_in_for_the_one_asked_for(sample: Any) -> None:
    assert sample.key({**sample.request, "model": "an-alias"}) == sample.key()
    assert sample.key(model="openai/gpt-4o-mini") != sample.key()


MARK = {"cache_control": {"type": "ephemeral"}}


@pytest.mark.parametrize(
    "marked",
    [
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}], **MARK}], "tools": [TOOL]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", **MARK}]}], "tools": [TOOL]},
        {
            "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
            "tools": [{**TOOL, **MARK, "function": {**TOOL["function"], **MARK}}],
        },
    ],
)
def test_a_cache_control_marker_does_not_change_the_key(sample: Any, marked: dict[str, Any]) -> None:
    plain = {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "tools": [TOOL]}
    assert sample.key(marked) == sample.key(plain)
    escaped = orjson.dumps(marked).replace(b"cache_control", b"cache\\u005fcontrol")
    assert sample.key(escaped) == sample.key(plain)


def test_a_tool_parameter_called_cache_control_is_content(sample: Any) -> None:
    def tool(properties: dict[str, Any]) -> dict[str, Any]:
        return {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": properties}}}]}

    variants: list[dict[str, Any]] = [{"cache_control": {"type": "string"}}, {"cache_control": {"type": "null"}}, {}]
    assert len({sample.key(tool(properties)) for properties in variants}) == 3


def test_the_order_of_a_schemas_properties_is_content(sample: Any) -> None:
    """Sources answer in the order of the schema; every other order of keys is none of the answer's."""
    properties = TOOL["function"]["parameters"]["properties"]
    turned = dict(reversed(properties.items()))

    def body(order: dict[str, Any], where: str) -> dict[str, Any]:
        schema = {"type": "object", "properties": order}
        if where == "tools":
            return {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]}
        return {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}}

    for where in ("tools", "response_format"):
        assert sample.key(body(properties, where)) != sample.key(body(turned, where))
        assert sample.key(body(properties, where)) == sample.key(orjson.dumps(body(dict(properties), where)))


IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)


@given(*[IDS] * 6, st.tuples(JSON, JSON))
def test_tenants_projects_and_users_never_meet(
    sample: Any, org: str, org2: str, project: str, project2: str, key: str, key2: str, users: tuple[Any, Any]
) -> None:
    one = {"body": {**sample.request, "user": users[0]}, "principal": Principal(org, project, key)}
    other = {"body": {**sample.request, "user": users[1]}, "principal": Principal(org2, project2, key2)}
    same = (org, project) == (org2, project2) and same_json(*users)
    assert (sample.key(**one) == sample.key(**other)) == same
    assert (sample.read(**one).address == sample.read(**other).address) == same
    assert sample.key(principal=one["principal"]) != sample.key(**one), "no user is not a user"


@given(IDS, IDS, IDS, IDS)
def test_parts_of_the_key_do_not_run_together(sample: Any, a: str, b: str, c: str, d: str) -> None:
    one = sample.key(endpoint=a, model=b, policy_epoch=c)
    assert sample.key(endpoint=a, model=b, policy_epoch=d) == one or c != d
    assert (sample.key(endpoint=b, model=a, policy_epoch=c) == one) == (a == b)
    assert (sample.key(endpoint=a, model=c, policy_epoch=b) == one) == (b == c)
    assert len({epoch_name(a), epoch_name(a, project_id=b), epoch_name(a, model=b), epoch_name(b)}) == 4 - (a == b)


@pytest.mark.parametrize("changed", [(0, 2, 3), (1, 0, 3), (1, 2, 0), (2, 1, 3)])
def test_each_purge_epoch_is_part_of_the_key_and_of_no_address(sample: Any, changed: tuple[int, int, int]) -> None:
    request = sample.read()
    assert request.key(changed) != request.key((1, 2, 3))
    assert request.address == hashlib.sha256(request.canonical).digest()


def test_the_key_is_the_hash_of_one_json_object(sample: Any) -> None:
    request = sample.read(
        {**sample.request, "user": "u", "stream": True, "response_format": {"properties": {"b": 1, "a": 2}}}
    )
    whole = orjson.dumps(
        {
            "v": 1,
            "scope": {"org": "org_a", "project": "prj_a", "user": "u"},
            "endpoint": "chat/completions",
            "model": "openai/gpt-4o",
            "source_policy_epoch": "p1",
            "purge_epochs": ["1", "2", str(2**60)],
            "property_order": [["b", "a"]],
            "body": {
                **{k: v for k, v in sample.request.items() if k != "model"},
                "response_format": {"properties": {"a": 2, "b": 1}},
            },
        },
        option=orjson.OPT_SORT_KEYS,
    )
    assert request.key((1, 2, 2**60)) == hashlib.sha256(whole).digest()
    assert (request.stream, request.include_usage) == (True, False)
