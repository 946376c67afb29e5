"""Usage in the shapes that sources send, as documented or reported of them, in disjoint classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.money import Provenance, Usage
from router_svc.domain.failure import FailureKind, SourceFailure
from router_svc.domain.usage import anthropic, gemini
from router_svc.domain.usage.compatible import usage_of_source
from router_svc.sources.chunk import read_chunk
from router_svc.sources.sse import SseParser


def used(**classes: int) -> Usage:
    return Usage(**classes, calls=1, provenance=Provenance.PROVIDER)


FIXTURES = Path(__file__).parent / "fixtures" / "usage"
NAMES = sorted(path.stem for path in FIXTURES.glob("*.json"))
"""Each file: where the shape is documented, what is said there, a response (or its usage, or a stream), and the classes
that it means."""


def events_of(stream: str) -> list[bytes]:
    return [event for event in SseParser(2**20).feed((FIXTURES / stream).read_bytes()) if event not in (b"", b"[DONE]")]


def read_compatible(fixture: dict[str, Any]) -> Usage | None:
    beside = fixture.get("cached_beside_prompt", False)
    if "stream" not in fixture:
        return usage_of_source(fixture.get("usage") or fixture["response"]["usage"], cached_beside_prompt=beside)
    told = None
    for event in events_of(fixture["stream"]):
        told = read_chunk(event, cached_beside_prompt=beside).usage or told
    return told


def read_native(fixture: dict[str, Any], native: Any) -> list[object]:
    events = map(orjson.loads, events_of(fixture["stream"])) if "stream" in fixture else [fixture["response"]]
    return [native.usage_block(event) for event in events]


def test_the_four_great_ones_are_there_plain_and_streamed() -> None:
    forms = "openai anthropic-messages anthropic-compatible gemini-generate gemini-compatible deepseek"
    for provider in forms.split():
        of_provider = [name for name in NAMES if name.startswith(provider)]
        assert any(name.endswith("-stream") for name in of_provider), provider
        assert len(of_provider) > 2, provider
    streams = {f"{name}.sse" for name in NAMES} & {path.name for path in FIXTURES.iterdir()}
    assert {path.name for path in FIXTURES.glob("*.sse")} == streams


@pytest.mark.parametrize("name", NAMES)
def test_golden_usage(name: str) -> None:
    fixture = orjson.loads((FIXTURES / f"{name}.json").read_bytes())
    assert fixture["source"].startswith("https://")
    match fixture["format"]:
        case "openai":
            usage = read_compatible(fixture)
        case "anthropic":
            usage = anthropic.usage_of_message(*read_native(fixture, anthropic))
        case "gemini":
            usage = gemini.usage_of_generation(*read_native(fixture, gemini))
    assert usage == used(**fixture["expected"])


ODD: dict[str, tuple[dict[str, Any], Usage]] = {
    "cached tokens beside the prompt, as the total tells": (
        {
            "prompt_tokens": 1000,
            "completion_tokens": 50,
            "total_tokens": 1550,
            "prompt_tokens_details": {"cached_tokens": 500},
        },
        used(input_tokens=1000, cached_input_tokens=500, output_tokens=50),
    ),
    "cached tokens that can't be inside": (
        {"prompt_tokens": 5, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 900}},
        used(input_tokens=5, cached_input_tokens=900, output_tokens=7),
    ),
    "null details": (
        {"prompt_tokens": 5, "completion_tokens": 7, "prompt_tokens_details": None, "completion_tokens_details": None},
        used(input_tokens=5, output_tokens=7),
    ),
    "nonsense beside sense": (
        {"prompt_tokens": 5.0, "completion_tokens": -3, "total_tokens": "8", "prompt_cache_hit_tokens": True},
        used(input_tokens=5),
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_made_of_the_odd(name: str) -> None:
    block, usage = ODD[name]
    assert usage_of_source(block) == usage


@pytest.mark.parametrize("block", [None, [], "x", {}, {"input_tokens": 0, "output_tokens": 0}, {"input_tokens": None}])
def test_silence_of_the_native_forms(block: object) -> None:
    assert anthropic.usage_of_message(block) is None
    assert anthropic.usage_of_message() is None
    assert gemini.usage_of_generation(block) is None
    assert gemini.usage_of_generation() is None
    assert anthropic.usage_block({"type": "ping"}) is None
    assert gemini.usage_block({"candidates": []}) is None


def test_of_gemini_no_more_is_cached_than_was_asked() -> None:
    usage = gemini.usage_of_generation({"promptTokenCount": 5, "cachedContentTokenCount": 900})
    assert usage == used(cached_input_tokens=5)


@pytest.mark.parametrize("block", [None, [], "x", {}, {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}])
def test_silence(block: object) -> None:
    assert usage_of_source(block) is None


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)
_counts = st.integers(-5, 2_000) | _json
_blocks = st.fixed_dictionaries(
    {},
    optional={
        "prompt_tokens": _counts,
        "completion_tokens": _counts,
        "total_tokens": _counts,
        "prompt_cache_hit_tokens": _counts,
        "cached_tokens": _counts,
        "cache_read_input_tokens": _counts,
        "cache_creation_input_tokens": _counts,
        "prompt_tokens_details": st.fixed_dictionaries(
            {}, optional={"cached_tokens": _counts, "cache_write_tokens": _counts}
        )
        | _json,
        "completion_tokens_details": st.fixed_dictionaries({}, optional={"reasoning_tokens": _counts}) | _json,
    },
)


@given(block=_blocks, beside=st.booleans())
def test_whatever_a_source_says_no_class_is_negative_and_no_prompt_token_counted_twice(
    block: dict[str, Any], beside: bool
) -> None:
    usage = usage_of_source(block, cached_beside_prompt=beside)
    if usage is None:
        return
    stated = block.get("prompt_tokens")
    if isinstance(stated, int) and not isinstance(stated, bool):
        cached = usage.cached_input_tokens + usage.cache_write_tokens
        stated = min(max(stated, 0), 10**9)  # more than any context is nonsense
        assert usage.prompt_tokens in {stated, stated + cached}


_USED = b'"usage":{"prompt_tokens":23,"completion_tokens":19,"total_tokens":42'
CHUNKS: dict[str, bytes] = {
    "openai": b'{"id":"c","object":"chat.completion.chunk","model":"gpt-4o-mini","choices":[],' + _USED + b"}}",
    "groq, extra usage chunk": b'{"id":"c","model":"llama","choices":[],' + _USED + b',"queue_time":0.1}}',
    "llama.cpp": b'{"choices":[],"created":1,"id":"c","model":"g",' + _USED + b'},"timings":{"cache_n":0}}',
}


@pytest.mark.parametrize("name", CHUNKS)
def test_a_pure_usage_chunk_is_not_relayed_and_kept_verbatim(name: str) -> None:
    read = read_chunk(CHUNKS[name], cached_beside_prompt=False)
    assert (read.relayed, read.usage_chunk) == (b"", CHUNKS[name])
    assert read.usage == used(input_tokens=23, output_tokens=19)


MIXED: dict[str, dict[str, Any]] = {
    "groq": {
        "id": "c",
        "model": "llama3-8b-8192",
        "choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}],
        "x_groq": {"id": "req_1", "usage": {"prompt_tokens": 23, "completion_tokens": 19, "total_tokens": 42}},
    },
    "mistral": {
        "id": "c",
        "model": "mistral-small",
        "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 23, "total_tokens": 42, "completion_tokens": 19},
    },
    "moonshot": {
        "id": "c",
        "model": "kimi",
        "choices": [
            {
                "index": 0,
                "delta": {},
                "finish_reason": "stop",
                "usage": {"prompt_tokens": 23, "completion_tokens": 19, "total_tokens": 42},
            }
        ],
    },
    "gemini": {
        "id": "c",
        "model": "gemini",
        "choices": [{"index": 0, "delta": {"content": "x", "role": "assistant"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 23, "completion_tokens": 19, "total_tokens": 42},
    },
}


@pytest.mark.parametrize("name", MIXED)
def test_usage_beside_choices_is_taken_off_and_kept(name: str) -> None:
    parsed = MIXED[name]
    read = read_chunk(orjson.dumps(parsed), cached_beside_prompt=False)
    assert b"prompt_tokens" not in read.relayed
    relayed = orjson.loads(read.relayed)
    assert relayed["choices"][0]["delta"] == parsed["choices"][0]["delta"]
    assert relayed["choices"][0]["finish_reason"] == "stop"
    told = orjson.loads(read.usage_chunk)
    assert (told["id"], told["choices"], told["usage"]["total_tokens"]) == ("c", [], 42)
    assert read.usage == used(input_tokens=23, output_tokens=19)
    assert read.finished == {0}


@pytest.mark.parametrize(
    "payload",
    [
        b'{"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}],"usage":null}',
        b'{"choices":[{"delta":{"content":"\\"usage\\": {\\"error\\": {\\"finish_reason\\": \\"stop\\"}}"}}]}',
        b'{"choices":[],"prompt_filter_results":[{"prompt_index":0}]}',
        b'{"choices":[{"index":0,"delta":{"content":"x"}}],"error":null}',
        b'{"choices":[{"index":1,"delta":{},"finish_reason":"length"}],"n":1.50}',
        b"[1]",
    ],
)
def test_everything_else_is_relayed_byte_for_byte(payload: bytes) -> None:
    read = read_chunk(payload, cached_beside_prompt=False)
    assert (read.relayed, read.usage_chunk, read.usage) == (payload, b"", None)


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (b'{"error":{"message":"The server had an error","type":"server_error"}}', FailureKind.ERROR_EVENT),
        (b'{"error":"boom"}', FailureKind.ERROR_EVENT),
        (b'{"error":{"code":429,"message":"slow down"}}', FailureKind.RATE_LIMITED),
        (
            b'{"error":{"code":502,"message":"x"},"choices":[{"index":0,"delta":{},"finish_reason":"error"}]}',
            FailureKind.ERROR_EVENT,
        ),
        (b'{"choices":[{"index":0,"delta":{},"finish_reason":"error"}]}', FailureKind.ERROR_EVENT),
        (b'{"usage":{"prompt_tokens', FailureKind.PROTOCOL),
    ],
)
def test_error_events(payload: bytes, kind: FailureKind) -> None:
    with pytest.raises(SourceFailure) as raised:
        read_chunk(payload, cached_beside_prompt=False)
    assert raised.value.kind is kind
