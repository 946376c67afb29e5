"""The exact tier, sentence by sentence of the design, where the tests of the parts leave a gap.

cache-svc/README.md has the table of sentences and the tests that hold them.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from random import Random
from typing import Any

import orjson
import pytest
from cache_json_writing import places, removed, replaced, rewritten
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cache_svc.domain import answer as answers
from cache_svc.domain.replay import Controls, Hit, Miss
from cache_svc.domain.request import NOT_IN_KEY
from cache_svc.service import CacheService, Limits
from cache_svc.store.memory import MemoryStore
from cache_svc.store.packed import PackedStore
from meshkit.answers.fold import fold
from meshkit.principal import Principal
from meshkit.testing import FakeClock

SCHEMA = {
    "type": "object",
    "properties": {"reason": {"type": "string"}, "answer": {"type": "number", "minimum": 0.5}},
    "required": ["reason", "answer"],
}
BODY: dict[str, Any] = {
    "model": "gpt-4o",
    "temperature": 0.0,
    "top_p": 1e-7,
    "seed": 0,
    "logit_bias": {"50256": -100},
    "stop": ["\n\n", "é/"],
    "a_parameter_of_tomorrow": {"deep": [[{"x": None}], True]},
    "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA, "strict": True}},
    "tools": [
        {"type": "function", "function": {"name": "f", "parameters": SCHEMA}},
        {"type": "function", "function": {"name": "g", "description": 'says "no": \\u003a', "parameters": {}}},
    ],
    "messages": [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "a\u0000b\u2028 \U0001f600"}, {"type": "text", "text": ""}],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "12:30"},
    ],
}
PLACES = [place for place in places(BODY) if place != ("model",)]
LEAVES = st.sampled_from(
    [None, True, False, 0, 1, -1, 0.0, -0.0, 1.0, 1e300, "", "a", " a", "A", [], {}, [None], {"": 0}]
)


def same_json(one: Any, other: Any) -> bool:
    return orjson.dumps(one, option=orjson.OPT_SORT_KEYS) == orjson.dumps(other, option=orjson.OPT_SORT_KEYS)


@given(st.sampled_from(PLACES), LEAVES)
@settings(max_examples=150)
def test_any_change_at_any_depth_changes_the_key(sample: Any, place: tuple[str | int, ...], value: Any) -> None:
    changed = replaced(BODY, place, value)
    assert (sample.key(changed) == sample.key(BODY)) == same_json(changed, BODY)


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_whatever_is_left_out_or_swapped_changes_the_key(sample: Any, place: tuple[str | int, ...]) -> None:
    assert sample.key(removed(BODY, place)) != sample.key(BODY)


def test_the_order_of_messages_parts_and_tools_is_content(sample: Any) -> None:
    for at in (("messages",), ("messages", 1, "content"), ("tools",), ("stop",)):
        turned: Any = BODY
        for name in at:
            turned = turned[name]
        assert sample.key(replaced(BODY, at, turned[::-1])) != sample.key(BODY)


@given(st.integers(0, 2**32))
@settings(max_examples=60)
def test_the_same_request_written_in_any_way_has_the_same_key(sample: Any, seed: int) -> None:
    again = rewritten(BODY, Random(seed)).encode()
    assert sample.read(again).canonical == sample.read(BODY).canonical
    assert sample.key(again) == sample.key(BODY)


@pytest.mark.parametrize(
    "spellings",
    [
        ["0", "-0"],
        ["0.0", "0e5", "0.000", "1e-400"],
        ["-0.0", "-0e0"],
        ["1"],
        ["1.0", "1e0", "10e-1", "1.00E+0"],
        ["0.1", "0.10", "1e-1", "0.1000000000000000055511151231257827"],
        ["9007199254740991"],
        ["9007199254740992.0", "9007199254740993.0", "9.007199254740992e15"],
        ["100000000000000000000.0", "1e20"],
        ["5e-324", "4.9e-324"],
    ],
)
def test_numbers_are_the_same_where_a_reader_gets_the_same_from_them(sample: Any, spellings: list[str]) -> None:
    """An integer and a float never are; two floats are if they are one IEEE 754 double."""
    keys = {sample.key(f'{{"top_p":{spelling}}}'.encode()) for spelling in spellings}
    assert len(keys) == 1
    others = ["0", "-0.0", "0.0", "1", "1.0", "0.1", "9007199254740991", "9007199254740992.0", "1e20", "5e-324"]
    assert len({sample.key(f'{{"top_p":{other}}}'.encode()) for other in others}) == len(others)


MARK = {"type": "ephemeral", "ttl": "1h"}
MARKED = [(), ("messages", 0), ("messages", 1, "content", 0), ("messages", 2, "tool_calls", 0), ("tools", 1)]
MARKED += [("tools", 1, "function"), ("messages", 2, "tool_calls", 0, "function")]
CONTENT = [
    ("tools", 0, "function", "parameters"),
    ("tools", 0, "function", "parameters", "properties"),
    ("logit_bias",),
]
CONTENT += [
    ("response_format",),
    ("a_parameter_of_tomorrow",),
    ("tools", 0, "function", "parameters", "properties", "reason"),
]


def at(body: Any, place: tuple[str | int, ...]) -> Any:
    for name in place:
        body = body[name]
    return body


@given(st.sets(st.sampled_from(MARKED)), st.sampled_from([MARK, None, {}]))
@settings(max_examples=30)
def test_markers_are_no_content_where_they_mark(sample: Any, marked: set[tuple[str | int, ...]], mark: Any) -> None:
    body: Any = BODY
    for place in marked:
        body = replaced(body, place, {**at(body, place), "cache_control": mark})
    assert sample.key(body) == sample.key(BODY)


@pytest.mark.parametrize("place", CONTENT, ids=str)
def test_what_is_called_like_a_marker_elsewhere_is_content(sample: Any, place: tuple[str | int, ...]) -> None:
    assert sample.key(replaced(BODY, place, {**at(BODY, place), "cache_control": MARK})) != sample.key(BODY)


@pytest.mark.parametrize("value", ["ephemeral", 0, True, ["ephemeral"], {"type": "ephemeral", "new": 1}])
def test_a_marker_that_is_none_is_content(sample: Any, value: Any) -> None:
    assert sample.key({**BODY, "cache_control": value}) != sample.key(BODY)


# fmt: off
SPELLINGS = [
    "0", "-0", "0.0", "-0.0", "1", "1.0", "1e0", "1e-400", "1e300", "9007199254740991", "9007199254740992.0",
    "9007199254740993.0", "true", "false", "null", '""', '" "', '"0"', '"a"', '"A"', '"é"', '"/"', '"😀"',
    r'"\u0061"', r'"\u00e9"', r'"\u00E9"', r'"e\u0301"', r'"\/"', r'"\t"', r'"\u0009"', r'"\u0000"', r'"\ud83d\ude00"',
    "[]", "{}", "[[]]", "[{}]", '{"":0}', '{"a":null}', '{"a":[],"b":0}', '{"b":0,"a":[]}',
]
NAMES = [
    "top_p", "x", r"\u0078", "user", "model", "stream", "metadata", "n", "tools", "functions", "messages", "content",
    "function", "tool_calls", "role",
]
# fmt: on


def test_of_thousands_of_near_duplicates_those_that_say_the_same_share_a_key_and_no_others(sample: Any) -> None:
    """Against another idea of sameness: Python's reader, whose types and repr tell apart what the key tells apart."""
    rng, keys = Random(5), dict[bytes, set[str]]()

    def value(depth: int) -> str:
        chance = rng.random() if depth < 3 else 1
        if chance < 0.2:
            return "[" + ",".join(value(depth + 1) for _ in range(rng.randrange(3))) + "]"
        return member(depth + 1, rng.randrange(3)) if chance < 0.45 else rng.choice(SPELLINGS)

    def member(depth: int, count: int) -> str:
        names = rng.sample(NAMES, count)
        return (
            "{"
            + ", ".join(f'"{name}" : {value(depth)}' for name in names if name != "x" or r"\u0078" not in names)
            + "}"
        )

    def said(one: Any) -> str:
        if isinstance(one, dict):
            return f"object {sorted((name, said(child)) for name, child in one.items())}"
        return f"[{', '.join(map(said, one))}]" if isinstance(one, list) else repr(one)

    for _ in range(6_000):
        raw = member(0, rng.randrange(1, 3))
        body = {name: child for name, child in json.loads(raw).items() if name not in {*NOT_IN_KEY, "model"}}
        keys.setdefault(sample.key(raw.encode()), set()).add(said(body))
    assert [texts for texts in keys.values() if len(texts) > 1] == []
    assert sum(map(len, keys.values())) == len({text for texts in keys.values() for text in texts})
    assert 1_000 < len(keys) < 5_000, "many are alike, and many are not"


def test_property_order_is_seen_in_tools_too_long_to_be_remembered(sample: Any) -> None:
    long = {"description": "x" * 20_000, **SCHEMA}
    turned = {**long, "properties": dict(reversed(SCHEMA["properties"].items()))}  # type: ignore[attr-defined]
    tools = [[{"type": "function", "function": {"name": "f", "parameters": schema}}] for schema in (long, turned)]
    assert sample.key({**BODY, "tools": tools[0]}) != sample.key({**BODY, "tools": tools[1]})
    assert sample.key({**BODY, "tools": tools[0]}) == sample.key(
        {**BODY, "tools": orjson.loads(orjson.dumps(tools[0]))}
    )


def cache() -> CacheService:
    clock = FakeClock()
    store = MemoryStore(max_bytes=2**24, clock=clock, new_epoch=itertools.count(1).__next__)
    packed = PackedStore(store, from_bytes=200, max_bytes=2**20)
    return CacheService(packed, clock, Limits(max_entry_bytes=2**20, ttl_s=600))


ASKED = st.fixed_dictionaries(
    {
        "principal": st.builds(Principal, *[st.sampled_from(["a", "b"])] * 3),
        "model": st.sampled_from(["m/1", "m/2"]),
        "policy_epoch": st.sampled_from(["p1", "p2"]),
        "body": st.builds(
            lambda user, text: {"messages": [{"role": "user", "content": text}], "temperature": 0, **user},
            st.sampled_from([{}, {"user": "u"}, {"user": "v"}, {"user": None}, {"user": ""}]),
            st.sampled_from(["x", "y"]),
        ),
    }
)


@given(st.lists(ASKED, min_size=2, max_size=8))
@settings(max_examples=60)
def test_an_answer_is_found_by_its_own_tenant_project_user_and_request_alone(
    sample: Any, asked: list[dict[str, Any]]
) -> None:
    """Each answer says whose it is; a model says which of them may be seen."""
    service, kept = cache(), dict[str, int]()

    async def run() -> None:
        for number, one in enumerate(asked):
            payer = one["principal"]
            whose = repr((payer.org_id, payer.project_id, one["model"], one["policy_epoch"], one["body"]))
            subject = sample.subject(**one)
            outcome = await service.lookup(subject, Controls(), "gen")
            if whose in kept:
                assert isinstance(outcome, Hit)
                assert orjson.loads(outcome.body)["system_fingerprint"] == str(kept[whose])
                continue
            assert isinstance(outcome, Miss)
            said = {**sample.answer, "system_fingerprint": str(number)}
            assert await service.store(subject, outcome.key, sample.fresh(said)) == ""
            kept[whose] = number

    asyncio.run(run())


TOKEN = {"token": "Hi", "logprob": -0.25, "bytes": [72, 105], "top_logprobs": [{"token": "Ho", "logprob": -2.5}]}
RICH: dict[str, Any] = {
    "id": "origin",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "system_fingerprint": None,
    "provider": "of a source's own",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Hi",
                "reasoning_content": "First: think.",
                "reasoning_details": [{"type": "reasoning.text", "index": 0, "text": "think", "signature": "s"}],
                "refusal": None,
                "annotations": [],
                "mood": {"new": [1.5, None]},
            },
            "logprobs": {"content": [TOKEN, TOKEN], "refusal": None},
            "finish_reason": "stop",
            "native_finish_reason": "STOP",
        },
        {
            "index": 1,
            "message": {
                "role": "assistant",
                "content": None,
                "refusal": "No.",
                "tool_calls": [
                    {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":'}},
                    {"id": "b", "type": "function", "function": {"name": "f", "arguments": ""}, "extra": {"k": 1}},
                ],
            },
            "logprobs": None,
            "finish_reason": "tool_calls",
        },
    ],
    "usage": {
        "prompt_tokens": 7,
        "completion_tokens": 9,
        "total_tokens": 16,
        "completion_tokens_details": {"reasoning_tokens": 4, "new_tokens": 0},
        "prompt_tokens_details": None,
        "cost": 0.25,
    },
}


async def stored(service: CacheService, sample: Any, body: dict[str, Any], answer: dict[str, Any]) -> str:
    miss = await service.lookup(sample.subject(body), Controls(), "gen")
    assert isinstance(miss, Miss)
    return await service.store(sample.subject(body), miss.key, sample.fresh(answer))


async def test_the_fold_of_the_replayed_stream_is_the_replayed_body_to_the_last_field(sample: Any) -> None:
    service, body = cache(), {**sample.request, "n": 2}
    assert await stored(service, sample, body, RICH) == ""
    plain = await service.lookup(sample.subject(body), Controls(), "gen_1")
    asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
    streamed = await service.lookup(sample.subject(asked), Controls(), "gen_1")
    assert isinstance(plain, Hit)
    assert isinstance(streamed, Hit)
    replayed = orjson.loads(plain.body)
    assert replayed == {**RICH, "id": "gen_1", "created": replayed["created"]}
    payloads = [orjson.loads(payload) for payload in [*streamed.chunks, streamed.usage_chunk]]
    assert same_json(fold(payloads), replayed)


@pytest.mark.parametrize(
    ("asked", "choices", "kept"),
    [
        ({}, 1, True),
        ({"n": None}, 1, True),
        ({"n": 1}, 1, True),
        ({"n": 2}, 2, True),
        ({"n": 2}, 1, False),
        ({"n": 3}, 2, False),
        ({}, 2, False),
        ({"n": 1}, 2, False),
        ({"n": "2"}, 2, False),
    ],
)
async def test_an_answer_has_as_many_choices_as_were_asked_for(
    sample: Any, asked: dict[str, Any], choices: int, kept: bool
) -> None:
    said = {**RICH, "choices": [{**RICH["choices"][0], "index": index} for index in range(choices)]}
    refusal = await stored(cache(), sample, {**sample.request, **asked}, said)
    assert (refusal == "", "choices" in refusal) == (kept, not kept)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@given(TEXT, st.integers(0, 2**40), TEXT)
@example('"},{"', 0, "\u2028")
@settings(max_examples=50)
def test_id_and_time_are_written_into_the_stored_bytes(name: str, created_s: int, content: str) -> None:
    """Whatever the id is, and whether or not the answer had one; and as entries of an earlier build are."""
    choice = {"index": 0, "message": {"content": content}, "finish_reason": "stop"}
    for said in ({"id": "x", "created": 5, "choices": [choice]}, {"choices": [choice], "zz": 1}):
        expected = {**said, "id": name, "created": created_s}
        for form in (answers.stored_form(said), orjson.dumps(said)):
            rendered = answers.render_body(form, completion_id=name, created_s=created_s)
            assert orjson.loads(rendered) == expected
            assert rendered.count(b'"created":') == 1
        cut = answers.render_body(answers.stored_form(said)[:-1], completion_id=name, created_s=created_s)
        assert orjson.loads(cut + b"}") == expected, "without reading the rest"
