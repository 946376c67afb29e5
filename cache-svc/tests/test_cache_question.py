"""A request split at the text of its last user message."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_svc.domain.question import read_question
from cache_svc.domain.request import NOT_IN_KEY
from cache_svc.domain.wording.verbatim import MAX_CHARS

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"b": {}, "a": {}}}}}


def asking(text: str, **changes: Any) -> dict[str, Any]:
    return {
        "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": text}],
        "temperature": 0,
        "tools": [TOOL],
        **changes,
    }


@given(TEXT, TEXT)
def test_two_requests_that_differ_in_the_text_alone_see_each_other_s_text(sample: Any, one: str, other: str) -> None:
    request, stored = sample.read(asking(one)), sample.read(asking(other))
    question, kept = read_question(request), read_question(stored)
    assert question is not None
    assert kept is not None
    assert question.bucket == kept.bucket
    assert (question.text, question.text_in(stored.canonical)) == (one, other)
    assert question.text_in(request.canonical) == one
    assert request.key_of(stored.canonical, (1, 2, 3)) == stored.key((1, 2, 3))


CHANGED: dict[str, dict[str, Any]] = {
    "an earlier message": {
        "messages": [{"role": "system", "content": "T"}, {"role": "user", "content": "Q?"}],
    },
    "no earlier message": {"messages": [{"role": "user", "content": "Q?"}]},
    "the kind of number": {"temperature": 0.0},
    "a tool": {"tools": []},
    "the order of a schema": {"tools": [{**TOOL, "function": {"name": "f", "parameters": {"properties": {"a": {}}}}}]},
    "an unknown field": {"invented": 1},
    "the user": {"user": "u"},
}


@pytest.mark.parametrize("what", CHANGED)
def test_any_other_difference_is_another_bucket_and_shows_no_text(sample: Any, what: str) -> None:
    question = read_question(sample.read(asking("Q?")))
    other = sample.read(asking("Q?", **CHANGED[what]))
    assert question is not None
    assert question.text_in(other.canonical) is None
    others = read_question(other)
    assert others is not None
    assert others.bucket != question.bucket


SCALARS = st.none() | st.booleans() | st.integers(0, 9) | st.floats(0, 1) | TEXT
NAMES = TEXT.filter(lambda name: name not in NOT_IN_KEY | {"model", "messages", "cache_control"})
EARLIER = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["system", "user"]), "content": TEXT}), max_size=3)


@given(st.dictionaries(NAMES, SCALARS, max_size=2), EARLIER, st.dictionaries(NAMES, SCALARS, max_size=2), EARLIER)
def test_whatever_differs_outside_the_last_text_is_no_hit(
    sample: Any, fields: dict[str, Any], earlier: list[Any], other_fields: dict[str, Any], other_earlier: list[Any]
) -> None:
    def requested(text: str, fields: dict[str, Any], earlier: list[Any]) -> Any:
        return sample.read({**fields, "messages": [*earlier, {"role": "user", "content": text}]})

    question = read_question(requested("Q?", fields, earlier))
    other = requested("R?", other_fields, other_earlier)
    others = read_question(other)
    assert question is not None
    assert others is not None
    alike = requested("", fields, earlier).canonical == requested("", other_fields, other_earlier).canonical
    assert question.text_in(other.canonical) == ("R?" if alike else None)
    assert (question.bucket == others.bucket) == alike


@given(st.binary(max_size=20), st.integers(0, 400))
def test_no_bytes_are_taken_for_a_text_that_is_none(sample: Any, junk: bytes, at: int) -> None:
    request = sample.read(asking("Q?"))
    question = read_question(request)
    assert question is not None
    forged = request.canonical[:at] + junk + request.canonical[at:]
    seen = question.text_in(forged)
    assert seen is None or question.before + orjson.dumps(seen) + question.after == forged or b"\\" in forged
    assert question.text_in(question.before + question.after) is None
    assert question.text_in(question.before[:-1]) is None


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def parts(*content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(content)}], "temperature": 0}


def said(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def test_of_parts_the_last_text_is_the_question_and_the_others_are_exact(sample: Any) -> None:
    def bucket(*content: Any) -> bytes:
        question = read_question(sample.read(parts(*content)))
        assert question is not None
        assert question.text in ("Q?", "R?")
        return question.bucket

    one = bucket(said("context"), PICTURE, said("Q?"))
    assert one == bucket(said("context"), PICTURE, said("R?"))
    assert len({one, bucket(said("other"), PICTURE, said("Q?")), bucket(said("context"), said("Q?"))}) == 3
    after = read_question(sample.read(parts(said("Q?"), PICTURE)))
    assert after is not None
    assert after.text == "Q?"
    assert bucket(said("Q?"), PICTURE) != bucket(PICTURE, said("Q?"))


@pytest.mark.parametrize(
    "messages",
    [
        [],
        "Q?",
        [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A"}],
        [{"role": "tool", "content": "Q?", "tool_call_id": "t"}],
        [{"role": "user", "content": [PICTURE]}],
        [{"role": "user", "content": ""}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": {"text": "Q?"}}],
        [{"role": "user", "content": [{"type": "text", "text": 1}, {"type": "refusal", "text": "r"}]}],
        [{"role": "user"}],
        [{"role": "user", "content": "x" * (MAX_CHARS + 1)}],
        ["user"],
    ],
)
def test_what_asks_no_question_in_words_has_none(sample: Any, messages: Any) -> None:
    assert read_question(sample.read({"messages": messages, "temperature": 0})) is None


def test_text_that_looks_like_the_rest_of_the_request_stays_text(sample: Any) -> None:
    """The text repeats what stands around it, and another message repeats the text."""
    tricky = 'Q?","role":"user"}],"temperature":0},"endpoint":"'
    messages = [{"role": "user", "content": tricky}, {"role": "user", "content": tricky}]
    request = sample.read({"messages": messages, "temperature": 0})
    question = read_question(request)
    assert question is not None
    assert question.text_in(request.canonical) == tricky
    other = sample.read({"messages": [{"role": "user", "content": "x"}, messages[1]], "temperature": 0})
    assert question.text_in(other.canonical) is None
