"""Which two answers say the same."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from cache_svc.domain.agreement import said


def answer(content: Any = None, *, finish_reason: str = "stop", **message: Any) -> bytes:
    """The body of an answer; its id and usage are its own each time."""
    answer.made += 1  # type: ignore[attr-defined]
    spoken = {"role": "assistant", "content": content, **message}
    return orjson.dumps(
        {
            "id": f"chatcmpl-{answer.made}",  # type: ignore[attr-defined]
            "object": "chat.completion",
            "created": answer.made,  # type: ignore[attr-defined]
            "choices": [{"index": 0, "message": spoken, "logprobs": None, "finish_reason": finish_reason}],
            "usage": {"prompt_tokens": answer.made, "completion_tokens": 1},  # type: ignore[attr-defined]
        }
    )


answer.made = 0  # type: ignore[attr-defined]


def call(arguments: str, name: str = "book", call_id: str = "call_1", **more: Any) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (answer("Seven."), answer("Seven.")),
        (answer("Seven."), answer("\n Seven.\n")),
        (answer("a\nb"), answer("a\r\nb")),
        (answer("7", reasoning="I counted."), answer("7", reasoning="I guessed.", reasoning_content="So.")),
        (answer("7", refusal=None, annotations=[]), answer("7")),
        (answer('{"a": 1, "b": [2]}'), answer('{"b":[2],"a":1}')),
        (answer(tool_calls=[call('{"at": 9}')]), answer(tool_calls=[call('{"at":9}', call_id="x", index=0)])),
        (
            answer(function_call={"name": "book", "arguments": '{"at": 9}'}),
            answer(function_call={"name": "book", "arguments": '{"at":9}'}),
        ),
    ],
)
def test_the_same_in_other_words_of_the_protocol(one: bytes, other: bytes) -> None:
    assert said(one) == said(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (answer("Seven."), answer("Seven")),
        (answer("Seven."), answer("seven.")),
        (answer("if x:\n    y"), answer("if x:\n  y")),
        (answer("7"), answer("7.0")),
        (answer('{"a": 1}'), answer('{"a": 2}')),
        (answer('{"a": 1}'), answer('{"a": "1"}')),
        (answer("[1, 2]"), answer("[2, 1]")),
        (answer('{"a": 1, "a": 2}'), answer('{"a": 2}')),
        (answer("Seven."), answer("Seven.", finish_reason="length")),
        (answer("Seven."), answer(refusal="Seven.")),
        (answer("Seven."), answer("Seven.", images=[{"url": "data:,7"}])),
        (answer(tool_calls=[call("{}")]), answer(tool_calls=[call("{}"), call("{}")])),
        (answer(tool_calls=[call("{}")]), answer(tool_calls=[call("{}", name="cancel")])),
        (answer(tool_calls=[call('{"at": 9}')]), answer(tool_calls=[call('{"at": 10}')])),
        (answer("7", tool_calls=[call("{}")]), answer("7")),
    ],
)
def test_what_a_client_would_read_or_run_differently(one: bytes, other: bytes) -> None:
    assert said(one) != said(other)


def test_json_is_not_taken_for_the_text_that_spells_it() -> None:
    """A normal form must not be writable by an answer."""
    assert said(answer('["text", "x"]')) != said(answer("x"))
    assert said(answer('["json", {"a": 1}]')) != said(answer('{"a": 1}'))


def test_every_choice_counts() -> None:
    whole = orjson.loads(answer("7"))
    twice = {**whole, "choices": [whole["choices"][0], {**whole["choices"][0], "index": 1}]}
    assert said(orjson.dumps(twice)) != said(orjson.dumps(whole))
