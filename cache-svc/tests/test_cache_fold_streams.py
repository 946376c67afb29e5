"""Streams as sources send them, and the bodies that they say. Written after each source's API reference."""

from __future__ import annotations

from typing import Any

import pytest

from meshkit.answers.fold import fold
from meshkit.answers.joining import NotFoldable

TOP = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
BODY = {"id": "c1", "object": "chat.completion", "created": 1, "model": "m"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def chunk(delta: Any, finish: str | None = None, index: int = 0, *, top: Any = None, **choice: Any) -> dict[str, Any]:
    return {**TOP, **(top or {}), "choices": [{"index": index, "delta": delta, "finish_reason": finish, **choice}]}


def usage_chunk(**extra: Any) -> dict[str, Any]:
    return {**TOP, "choices": [], "usage": USAGE, **extra}


def said(message: dict[str, Any], finish: str = "stop", **extra: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": message, "finish_reason": finish, **extra.pop("choice", {})}
    return {**BODY, "choices": [choice], "usage": USAGE, **extra}


def call(index: int | None, **fields: Any) -> dict[str, Any]:
    return {"tool_calls": [fields if index is None else {"index": index, **fields}]}


def function(name: str, arguments: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def test_openai_with_usage_logprobs_and_padding() -> None:
    top = {"system_fingerprint": "fp", "service_tier": "default", "usage": None, "obfuscation": "x7"}
    token = {"token": "Hi", "logprob": -0.1, "bytes": [72, 105], "top_logprobs": []}
    stream = [
        chunk({"role": "assistant", "content": "", "refusal": None}, top=top, logprobs=None),
        chunk({"content": "Hi"}, top={**top, "obfuscation": "q"}, logprobs={"content": [token], "refusal": None}),
        chunk({"content": "!"}, top=top, logprobs={"content": [{**token, "token": "!"}], "refusal": None}),
        chunk({}, "stop", top=top, logprobs=None),
        usage_chunk(system_fingerprint="fp", service_tier="default", obfuscation=""),
    ]
    assert fold(stream) == said(
        {"role": "assistant", "content": "Hi!", "refusal": None},
        choice={"logprobs": {"content": [token, {**token, "token": "!"}], "refusal": None}},
        system_fingerprint="fp",
        service_tier="default",
    )


def test_openai_parallel_tool_calls_interleaved() -> None:
    stream = [
        chunk({"role": "assistant", "content": None}),
        chunk(call(0, id="a", **function("f", ""))),
        chunk(call(1, id="b", **function("g", ""))),
        chunk(call(0, function={"arguments": '{"x"'})),
        chunk(call(1, function={"arguments": "{}"})),
        chunk(call(0, function={"arguments": ":1}"})),
        chunk({}, "tool_calls"),
        usage_chunk(),
    ]
    calls = [{"id": "a", **function("f", '{"x":1}')}, {"id": "b", **function("g", "{}")}]
    assert fold(stream) == said({"role": "assistant", "content": None, "tool_calls": calls}, "tool_calls")


def test_openai_custom_tool_and_refusal_and_legacy_function() -> None:
    stream = [
        chunk({"role": "assistant", "refusal": "I "}),
        chunk({"refusal": "can't"}),
        chunk(call(0, id="a", type="custom", custom={"name": "sql", "input": ""})),
        chunk(call(0, custom={"input": "select"})),
        chunk({"function_call": {"name": "f", "arguments": "{"}}),
        chunk({"function_call": {"arguments": "}"}}),
        chunk({}, "stop"),
        usage_chunk(),
    ]
    assert fold(stream)["choices"][0]["message"] == {
        "role": "assistant",
        "refusal": "I can't",
        "tool_calls": [{"id": "a", "type": "custom", "custom": {"name": "sql", "input": "select"}}],
        "function_call": {"name": "f", "arguments": "{}"},
    }


def test_azure_prompt_filter_chunk_and_choice_filters() -> None:
    safe = {"hate": {"filtered": False, "severity": "safe"}}
    stream = [
        {**TOP, "id": "", "model": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]},
        chunk({"role": "assistant", "content": ""}, content_filter_results={}),
        chunk({"content": "Hi"}, content_filter_results=safe),
        chunk({}, "stop", content_filter_results={}),
        usage_chunk(),
    ]
    folded = fold(stream)
    assert folded["choices"][0]["content_filter_results"] == safe
    assert folded["prompt_filter_results"] == [{"prompt_index": 0}]
    assert (folded["id"], folded["model"]) == ("c1", "m")


def test_deepseek_reasoning_with_role_in_every_delta_and_usage_in_the_last_choice() -> None:
    stream = [
        chunk({"role": "assistant", "content": None, "reasoning_content": ""}),
        chunk({"role": "assistant", "content": None, "reasoning_content": "2+2 "}),
        chunk({"role": "assistant", "content": None, "reasoning_content": "is 4"}),
        chunk({"role": "assistant", "content": "4", "reasoning_content": None}),
        chunk({"role": "assistant", "content": "", "reasoning_content": None}, "stop", top={"usage": USAGE}),
    ]
    assert fold(stream) == said({"role": "assistant", "content": "4", "reasoning_content": "2+2 is 4"})


def test_openrouter_reasoning_details_provider_and_native_finish() -> None:
    def detail(text: str, **extra: Any) -> dict[str, Any]:
        return {"type": "reasoning.text", "text": text, "format": "anthropic-claude-v1", "index": 0, **extra}

    top = {"provider": "Anthropic"}
    stream = [
        chunk({"role": "assistant", "content": "", "reasoning": "a", "reasoning_details": [detail("a")]}, top=top),
        chunk({"role": "assistant", "content": "", "reasoning": "b", "reasoning_details": [detail("b")]}, top=top),
        chunk({"role": "assistant", "content": "", "reasoning_details": [detail("", signature="s")]}, top=top),
        chunk({"role": "assistant", "content": "Hi", "reasoning": None}, top=top, native_finish_reason=None),
        chunk({"role": "assistant", "content": ""}, "stop", top=top, native_finish_reason="end_turn"),
        usage_chunk(**top),
    ]
    message = {
        "role": "assistant",
        "content": "Hi",
        "reasoning": "ab",
        "reasoning_details": [detail("ab", signature="s")],
    }
    assert fold(stream) == said(message, provider="Anthropic", choice={"native_finish_reason": "end_turn"})


def test_groq_usage_in_its_own_field_as_well() -> None:
    stream = [
        chunk({"role": "assistant", "content": ""}, top={"x_groq": {"id": "req_1"}}),
        chunk({"content": "Hi"}),
        chunk({}, "stop", top={"x_groq": {"id": "req_1", "usage": USAGE}}),
        usage_chunk(),
    ]
    expected = said({"role": "assistant", "content": "Hi"}, x_groq={"id": "req_1", "usage": USAGE})
    assert fold(stream) == expected


def test_mistral_whole_tool_calls_without_index() -> None:
    both = [
        {"id": "a", "function": {"name": "f", "arguments": "{}"}},
        {"id": "b", "function": {"name": "f", "arguments": "{}"}},
    ]
    stream = [
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "", "tool_calls": both}, "tool_calls", top={"usage": USAGE}),
    ]
    assert fold(stream) == said({"role": "assistant", "content": "", "tool_calls": both}, "tool_calls")


def test_tool_call_without_index_continued_without_id() -> None:
    stream = [
        chunk(call(None, id="a", **function("f", '{"x"'))),
        chunk(call(None, function={"arguments": ":1"})),
        chunk(call(None, id="a", function={"arguments": "}"})),
        chunk({}, "tool_calls", top={"usage": USAGE}),
    ]
    assert fold(stream)["choices"][0]["message"]["tool_calls"] == [{"id": "a", **function("f", '{"x":1}')}]


def test_gemini_whole_call_with_a_thought_signature() -> None:
    extra = {"google": {"thought_signature": "sig"}}
    stream = [
        chunk({"role": "assistant", **call(0, id="a", extra_content=extra, **function("f", "{}"))}),
        chunk({"role": "assistant"}, "tool_calls", top={"usage": USAGE}),
    ]
    calls = [{"id": "a", "extra_content": extra, **function("f", "{}")}]
    assert fold(stream)["choices"][0]["message"] == {"role": "assistant", "tool_calls": calls}


def test_llama_cpp_timings_and_usage_chunk() -> None:
    stream = [
        chunk({"role": "assistant", "content": None}, top={"system_fingerprint": "b1"}),
        chunk({"content": "Hi"}, top={"system_fingerprint": "b1"}),
        chunk({}, "stop", top={"system_fingerprint": "b1"}),
        usage_chunk(system_fingerprint="b1", timings={"prompt_n": 3, "predicted_ms": 1.5}),
    ]
    timings = {"prompt_n": 3, "predicted_ms": 1.5}
    assert fold(stream) == said({"role": "assistant", "content": "Hi"}, system_fingerprint="b1", timings=timings)


def test_usage_that_grows_in_every_chunk_and_citations_that_repeat() -> None:
    top: dict[str, Any] = {"citations": ["https://a", "https://b"]}
    stream = [
        chunk(
            {"role": "assistant", "content": "H"}, top={**top, "usage": {"prompt_tokens": 3, "completion_tokens": 1}}
        ),
        chunk({"role": "assistant", "content": "i"}, "stop", top={**top, "usage": USAGE}),
    ]
    assert fold(stream) == said({"role": "assistant", "content": "Hi"}, **top)


def test_several_choices_interleaved() -> None:
    stream = [
        chunk({"role": "assistant", "content": "b"}, index=1),
        chunk({"role": "assistant", "content": "a"}, index=0),
        chunk({"content": "B"}, index=1),
        chunk({}, "length", index=1),
        chunk({"content": "A"}, "stop", index=0),
        usage_chunk(),
    ]
    choices = fold(stream)["choices"]
    assert [(c["index"], c["message"]["content"], c["finish_reason"]) for c in choices] == [
        (0, "aA", "stop"),
        (1, "bB", "length"),
    ]


def test_audio_pieces_are_joined_as_bytes() -> None:
    stream = [
        chunk({"role": "assistant", "audio": {"id": "a", "transcript": "He"}}),
        chunk({"audio": {"data": "AQ==", "transcript": "y"}}),
        chunk({"audio": {"data": "AgM="}}),
        chunk({"audio": {"expires_at": 9}}),
        chunk({}, "stop"),
        usage_chunk(),
    ]
    audio = {"id": "a", "transcript": "Hey", "data": "AQID", "expires_at": 9}
    assert fold(stream)["choices"][0]["message"]["audio"] == audio


def test_what_did_not_come_is_absent() -> None:
    cut = fold([chunk({"role": "assistant", "content": "Hi"})])
    assert "usage" not in cut
    assert cut["choices"][0]["finish_reason"] is None


@pytest.mark.parametrize(
    "stream",
    [
        [chunk({"content": "a"}), {"error": {"message": "overloaded", "code": 529}}],
        [chunk({"content": "a"}), {**chunk({}, "error"), "error": {"message": "overloaded"}}],
        [chunk({"content": "a"}), "text"],
        [chunk({"content": "a"}), {**TOP, "object": "response.delta"}],
        [{**TOP, "choices": {}}],
        [{**TOP, "choices": ["a"]}],
        [chunk("a")],
        [chunk({"content": "a"}, index="0")],  # type: ignore[arg-type]
        [chunk({}, "stop"), chunk({}, "length")],
        [chunk({"novel": "a"}), chunk({"novel": "a"})],
        [chunk({"novel": ["a"]}), chunk({"novel": ["b"]})],
        [chunk({}, token_ids=[5]), chunk({}, token_ids=[5])],
        [chunk({}, top={"novel": 1}), chunk({}, top={"novel": 2})],
        [chunk({"content": ["a"]}), chunk({"content": "a"})],
        [chunk({"content": "a"}), chunk({"content": ["a"]})],
        [chunk({"role": "assistant"}), chunk({"role": "user"})],
        [chunk({"tool_calls": {}})],
        [chunk({"tool_calls": ["a"]})],
        [chunk(call(1, id="b", **function("f", "")))],
        [chunk(call(0, id="a", **function("f", "{}"))), chunk(call(0, id="b", **function("f", "{}")))],
        [chunk(call(None, **function("f", "{}"))), chunk(call(None, **function("f", "{}")))],
        [chunk(call(0, function={"arguments": "{"})), chunk(call(0, function={"arguments": {}}))],
        [chunk(call(0, function="f")), chunk(call(0, function={"arguments": ""}))],
        [chunk({"audio": {"data": "AQ"}}), chunk({"audio": {"data": "AQ=="}})],
        [chunk({"audio": {"transcript": 1}}), chunk({"audio": {"transcript": "a"}})],
        [chunk({}, logprobs={"content": 1}), chunk({}, logprobs={"content": [1]})],
        [chunk({}, logprobs=[1]), chunk({}, logprobs={"content": [1]})],
    ],
)
def test_a_broken_or_ambiguous_stream_is_refused(stream: list[Any]) -> None:
    with pytest.raises(NotFoldable):
        fold(stream)
