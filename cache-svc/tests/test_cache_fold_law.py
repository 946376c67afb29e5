"""The law of replay, `fold(unfold(body)) == body`, and what makes an answer storable."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_svc.domain import answer as answers
from cache_svc.domain.answer import NotStorable
from cache_svc.domain.unfold import unfold
from meshkit.answers import statement
from meshkit.answers.fold import fold
from meshkit.answers.joining import NotFoldable

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=6
)
UNKNOWN = st.dictionaries(TEXT.map(lambda name: f"new_{name}"), JSON, max_size=3)


def optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


def merged(*parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(*parts).map(
        lambda dicts: {name: value for part in reversed(dicts) for name, value in part.items()}
    )


TOKENS = st.none() | st.lists(st.fixed_dictionaries({"token": TEXT, "logprob": st.floats(-9, 0)}), max_size=3)
FUNCTION_CALL = merged(
    st.fixed_dictionaries({"id": TEXT, "type": st.just("function")}),
    st.fixed_dictionaries({"function": merged(st.fixed_dictionaries({"name": TEXT, "arguments": TEXT}), UNKNOWN)}),
    UNKNOWN,
)
CUSTOM_CALL = merged(
    st.fixed_dictionaries(
        {"id": TEXT, "type": st.just("custom"), "custom": st.fixed_dictionaries({"name": TEXT, "input": TEXT})}
    ),
    UNKNOWN,
)
# Mistral and DeepSeek number their calls outside streams too.
CALLS = st.lists(FUNCTION_CALL | CUSTOM_CALL, max_size=3).flatmap(
    lambda calls: st.sampled_from([calls, [{**call, "index": at} for at, call in enumerate(calls)]])
)
MESSAGE = merged(
    optional(
        role=st.just("assistant"),
        content=st.none() | TEXT | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXT}), max_size=2),
        reasoning=st.none() | TEXT,
        reasoning_content=st.none() | TEXT,
        reasoning_details=st.none()
        | st.lists(st.fixed_dictionaries({"index": st.integers(0, 1), "text": TEXT}), max_size=3),
        refusal=st.none() | TEXT,
        annotations=st.none() | st.lists(JSON, max_size=2),
        audio=st.none()
        | st.fixed_dictionaries({"id": TEXT, "data": TEXT, "transcript": TEXT, "expires_at": st.integers(0, 2**40)}),
        tool_calls=st.none() | CALLS,
        function_call=st.none() | st.fixed_dictionaries({"name": TEXT, "arguments": TEXT}),
        name=TEXT,
    ),
    UNKNOWN,
)
CHOICE = merged(
    st.fixed_dictionaries({"message": MESSAGE, "finish_reason": st.sampled_from(["stop", "length", "tool_calls"])}),
    optional(logprobs=st.none() | st.fixed_dictionaries({"content": TOKENS, "refusal": TOKENS})),
    UNKNOWN,
)
USAGE = merged(
    st.fixed_dictionaries({"prompt_tokens": st.integers(0, 9**9), "completion_tokens": st.integers(0, 9**9)}),
    optional(completion_tokens_details=st.none() | st.dictionaries(TEXT, st.integers(0, 9))),
    UNKNOWN,
)
BODY = merged(
    st.fixed_dictionaries({"object": st.just("chat.completion"), "usage": USAGE}),
    st.lists(CHOICE, min_size=1, max_size=3).map(
        lambda choices: {"choices": [{"index": index, **choice} for index, choice in enumerate(choices)]}
    ),
    optional(
        id=TEXT,
        created=st.integers(0, 2**40),
        model=TEXT,
        system_fingerprint=st.none() | TEXT,
        service_tier=st.none() | TEXT,
    ),
    UNKNOWN,
)


def same(one: Any, other: Any) -> bool:
    return orjson.dumps(one, option=orjson.OPT_SORT_KEYS) == orjson.dumps(other, option=orjson.OPT_SORT_KEYS)


@given(BODY)
def test_the_fold_of_the_replayed_stream_is_the_body(body: dict[str, Any]) -> None:
    chunks, usage_chunk = unfold(body)
    assert same(fold([*chunks, usage_chunk]), body)


@given(BODY)
def test_a_replayed_stream_has_the_form_that_clients_expect(body: dict[str, Any]) -> None:
    chunks, usage_chunk = unfold(body)
    finished = [choice["index"] for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]]
    assert finished == [choice["index"] for choice in body["choices"]]
    for chunk in chunks:
        assert chunk["object"] == "chat.completion.chunk"
        assert [len(chunk["choices"]), "usage" in chunk] == [1, False]
        assert chunk.get("id") == body.get("id")
        for call in chunk["choices"][0]["delta"].get("tool_calls") or []:
            assert isinstance(call["index"], int)
    assert (usage_chunk["choices"], usage_chunk["usage"]) == ([], body["usage"])


def spoken(body: dict[str, Any]) -> dict[str, Any]:
    """Not blank, whatever else it is."""
    first, *others = body["choices"]
    return {**body, "choices": [{**first, "message": {**first["message"], "content": "said"}}, *others]}


@given(BODY.map(spoken))
def test_a_body_is_stored_and_replayed_whole_but_for_id_and_time(body: dict[str, Any]) -> None:
    kept = orjson.dumps(answers.read_body(orjson.dumps(body)))
    renewed = {**body, "id": "gen_1", "created": 7}
    assert same(orjson.loads(answers.render_body(kept, completion_id="gen_1", created_s=7)), renewed)
    chunks, usage_chunk = answers.render_chunks(kept, completion_id="gen_1", created_s=7)
    assert same(answers.read_chunks([*chunks, usage_chunk]), renewed)


@given(BODY.map(spoken))
def test_an_answer_and_its_replays_have_one_statement(body: dict[str, Any]) -> None:
    kept = orjson.dumps(answers.read_body(orjson.dumps(body)))
    replayed = answers.render_body(kept, completion_id="gen_1", created_s=7)
    chunks, usage_chunk = answers.render_chunks(kept, completion_id="gen_2", created_s=8)
    said = statement.of_body(orjson.dumps(body))
    assert said == statement.of_body(replayed) == statement.of_stream(chunks)
    assert said == statement.of_stream([*chunks, usage_chunk])


def objects(names: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Objects with some of these members, of that value or of any."""
    return st.dictionaries(st.sampled_from(names.split()), values | JSON)


CALL = objects("index id type function", st.integers(0, 1) | objects("name arguments", TEXT))
DELTA = objects(
    "content tool_calls audio function_call reasoning_details annotations role",
    st.lists(CALL | objects("index type text", TEXT), max_size=3) | objects("data transcript arguments name", TEXT),
)
CHUNKY = objects(
    "choices usage object id new",
    st.lists(objects("index delta logprobs finish_reason new", DELTA | st.integers(0, 1)), max_size=2),
)


@given(st.lists(CHUNKY, max_size=4))
def test_any_stream_folds_or_is_refused_and_nothing_else(stream: list[Any]) -> None:
    try:
        body = fold(stream)
    except NotFoldable:
        return
    assert body["object"] == "chat.completion"


SPOILED = st.builds(
    lambda body, name, value: {**body, name: value}, BODY, st.sampled_from(["choices", "usage", "object"]), JSON
)


@given(JSON | BODY | SPOILED)
def test_any_answer_is_kept_or_refused_and_nothing_else(value: Any) -> None:
    raw = orjson.dumps(value)
    try:
        body = answers.read_body(raw)
    except NotStorable:
        return
    assert same(body, value)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"usage": None}, "used"),
        ({"usage": {}}, "used"),
        ({"usage": {"prompt_tokens": 3}}, "used"),
        ({"usage": {"prompt_tokens": 3, "completion_tokens": None}}, "used"),
        ({"usage": {"prompt_tokens": -3, "completion_tokens": 1}}, "used"),
        ({"object": "error"}, "error"),
        ({"object": None}, "None"),
        ({"error": {"message": "overloaded"}}, "error"),
        ({"choices": []}, "choices"),
        ({"choices": None}, "choices"),
        ({"choices": ["a"]}, "choice 0"),
        ({"citations": ["https://a"]}, "looked things up"),
        ({"search_results": [{"url": "https://a"}]}, "looked things up"),
    ],
)
def test_an_incomplete_body_is_not_stored(sample: Any, change: dict[str, Any], why: str) -> None:
    with pytest.raises(NotStorable, match=why):
        answers.read_body(orjson.dumps({**sample.answer, **change}))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"finish_reason": None}, "None"),
        ({"finish_reason": ""}, "finished"),
        ({"finish_reason": "content_filter"}, "content_filter"),
        ({"finish_reason": "error"}, "error"),
        ({"finish_reason": "insufficient_system_resource"}, "insufficient_system_resource"),
        ({"content_filter_results": {"hate": {"filtered": True}}}, "filtered"),
        ({"message": None}, "choice 0"),
        ({"index": 1}, "order"),
        ({"message": {"role": "assistant", "content": ""}}, "blank"),
        ({"message": {"role": "assistant", "content": None}}, "blank"),
        ({"message": {"role": "assistant", "tool_calls": ["f"]}}, "tool calls"),
        ({"message": {"content": "a", "annotations": [{"type": "url_citation"}]}}, "looked things up"),
        ({"message": {"content": "a", "executed_tools": [{"type": "search"}]}}, "looked things up"),
        ({"message": {"role": "assistant", "tool_calls": [{"id": "a", "index": 3}]}}, "replayed"),
    ],
)
def test_an_incomplete_choice_is_not_stored(sample: Any, change: dict[str, Any], why: str) -> None:
    body = {**sample.answer, "choices": [{**sample.answer["choices"][0], **change}]}
    with pytest.raises(NotStorable, match=why):
        answers.read_body(orjson.dumps(body))


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"a":1,"a":2}', b'{"a":99999999999999999999}', b'{"a":NaN}'])
def test_an_answer_without_one_reading_is_not_stored(raw: bytes) -> None:
    with pytest.raises(NotStorable):
        answers.read_body(raw)
    with pytest.raises(NotStorable):
        answers.read_chunks([raw])


def test_a_cut_stream_is_not_stored(sample: Any) -> None:
    """Whatever is missing from the end of a stream, what is left of it is not kept."""
    chunks, usage_chunk = unfold(sample.answer)
    whole = [orjson.dumps(chunk) for chunk in [*chunks, usage_chunk]]
    assert same(answers.read_chunks(whole), sample.answer)
    for length in range(len(whole)):
        with pytest.raises(NotStorable):
            answers.read_chunks(whole[:length])
    with pytest.raises(NotStorable, match="finished"):
        answers.read_chunks([*whole[:-2], whole[-1]])
