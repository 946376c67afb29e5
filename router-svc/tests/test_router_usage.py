"""Usage in the shapes that sources send, as documented or reported of them, in disjoint classes."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.money import Provenance, Usage
from router_svc.domain.failure import FailureKind, SourceFailure
from router_svc.domain.usage import usage_of_source
from router_svc.sources.chunk import read_chunk


def used(**classes: int) -> Usage:
    return Usage(**classes, calls=1, provenance=Provenance.PROVIDER)


GOLDEN: dict[str, tuple[dict[str, Any], Usage]] = {
    "openai": (
        {
            "prompt_tokens": 2006,
            "completion_tokens": 300,
            "total_tokens": 2306,
            "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 192,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        used(input_tokens=86, cached_input_tokens=1920, output_tokens=108, reasoning_tokens=192),
    ),
    "deepseek": (
        {
            "prompt_tokens": 1000,
            "completion_tokens": 120,
            "total_tokens": 1120,
            "prompt_cache_hit_tokens": 832,
            "prompt_cache_miss_tokens": 168,
            "completion_tokens_details": {"reasoning_tokens": 100},
        },
        used(input_tokens=168, cached_input_tokens=832, output_tokens=20, reasoning_tokens=100),
    ),
    "deepseek, cached tokens under both names": (
        {
            "prompt_tokens": 17,
            "completion_tokens": 9,
            "total_tokens": 26,
            "prompt_tokens_details": {"cached_tokens": 8},
            "prompt_cache_hit_tokens": 8,
            "prompt_cache_miss_tokens": 9,
        },
        used(input_tokens=9, cached_input_tokens=8, output_tokens=9),
    ),
    "groq": (
        {
            "queue_time": 0.07535312,
            "prompt_tokens": 23,
            "prompt_time": 0.006,
            "completion_tokens": 19,
            "completion_time": 0.022,
            "total_tokens": 42,
            "total_time": 0.028,
        },
        used(input_tokens=23, output_tokens=19),
    ),
    "mistral": (
        {"prompt_tokens": 11, "total_tokens": 43, "completion_tokens": 32, "prompt_audio_seconds": None},
        used(input_tokens=11, output_tokens=32),
    ),
    "openrouter": (
        {
            "prompt_tokens": 194,
            "completion_tokens": 2,
            "total_tokens": 196,
            "cost": 0.95,
            "cost_details": {"upstream_inference_cost": 19},
            "prompt_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 100, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
        used(input_tokens=54, cached_input_tokens=40, cache_write_tokens=100, output_tokens=2),
    ),
    "gemini, thoughts only in the total": (
        {"prompt_tokens": 20, "completion_tokens": 151, "total_tokens": 553},
        used(input_tokens=20, output_tokens=151, reasoning_tokens=382),
    ),
    "gemini, nothing but thoughts": (
        {
            "completion_tokens": 0,
            "total_tokens": 81,
            "prompt_tokens": 21,
            "completion_tokens_details": {"reasoning_tokens": 60},
        },
        used(input_tokens=21, reasoning_tokens=60),
    ),
    "xai, reasoning beside the completion": (
        {
            "prompt_tokens": 10120,
            "completion_tokens": 1499,
            "total_tokens": 14428,
            "prompt_tokens_details": {"cached_tokens": 128},
            "completion_tokens_details": {"reasoning_tokens": 2809},
        },
        used(input_tokens=9992, cached_input_tokens=128, output_tokens=1499, reasoning_tokens=2809),
    ),
    "xai, without a total": (
        {"prompt_tokens": 12, "completion_tokens": 1, "completion_tokens_details": {"reasoning_tokens": 386}},
        used(input_tokens=12, output_tokens=1, reasoning_tokens=386),
    ),
    "anthropic, compatible endpoint": (
        {"prompt_tokens": 25, "completion_tokens": 15, "total_tokens": 40},
        used(input_tokens=25, output_tokens=15),
    ),
    "moonshot": (
        {
            "prompt_tokens": 2989,
            "completion_tokens": 40,
            "total_tokens": 3029,
            "cached_tokens": 2989,
            "prompt_tokens_details": {"cached_tokens": 2989},
        },
        used(cached_input_tokens=2989, output_tokens=40),
    ),
    "llama.cpp": (
        {
            "completion_tokens": 31,
            "prompt_tokens": 75,
            "total_tokens": 106,
            "prompt_tokens_details": {"cached_tokens": 30},
        },
        used(input_tokens=45, cached_input_tokens=30, output_tokens=31),
    ),
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


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_usage(name: str) -> None:
    block, usage = GOLDEN[name]
    assert usage_of_source(block) == usage


def test_cached_tokens_beside_the_prompt() -> None:
    block = {
        "prompt_tokens": 21,
        "completion_tokens": 393,
        "total_tokens": 21 + 393 + 188_086 + 100,
        "cache_read_input_tokens": 188_086,
        "cache_creation_input_tokens": 100,
    }
    usage = used(input_tokens=21, cached_input_tokens=188_086, cache_write_tokens=100, output_tokens=393)
    assert usage_of_source(block, cached_beside_prompt=True) == usage
    assert usage_of_source({**block, "total_tokens": 21 + 393}, cached_beside_prompt=True) == usage


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
        assert usage.prompt_tokens in {max(stated, 0), max(stated, 0) + cached}


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
