"""What the scripted upstream does, by the name of the model that it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that is an error. ``body`` is sent as it stands."""

    status: int
    body: dict[str, Any]
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One script. Delays are seconds; "after N chunks" counts SSE events with choices, the role's included."""

    refusal: Refusal | None = None
    """Refuse instead of answering."""

    refuse_first: int | None = None
    """How many calls of this model, over all sources, are refused; None: all of them. Needs ``refusal``."""

    text: str | None = None
    """What to say; None: an answer to the request (an echo, a tool call, an instance of the schema)."""

    reasoning: str = ""
    """Said before the text, as ``reasoning_content``."""

    finish_reason: str = ""
    """Instead of "stop" or "tool_calls"."""

    first_byte_after_s: float = 0.0
    chunk_every_s: float = 0.0

    gate_after_chunks: int | None = None
    """Wait there until ``ScriptedUpstream.release``. A JSON body waits before its first byte."""

    cut_after_chunks: int | None = None
    """Drop the connection there. A JSON body is dropped in its middle."""

    cut_first: int | None = None
    """How many calls are cut; None: all of them."""

    error_after_chunks: int | None = None
    """Send an error object there as an SSE event, and end. A JSON body is that error, with 200."""

    malformed: bool = False
    """Send what is not JSON."""

    usage: dict[str, Any] | None = None
    """Instead of counted words."""

    without_usage: bool = False
    usage_with_last_choice: bool = False
    """In a stream, the usage stands in the chunk with the finish_reason, as DeepSeek and Mistral do."""


def refusal(status: int, message: str, kind: str, code: str | None = None, **headers: str) -> Refusal:
    """An error as OpenAI words it. Keyword names become header names: ``retry_after="1"``."""
    body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return Refusal(status, body, tuple((name.replace("_", "-"), value) for name, value in headers.items()))


SERVER_ERROR = refusal(500, "The server had an error while processing your request.", "server_error")
OVERLOADED = refusal(503, "The engine is currently overloaded.", "server_error", "overloaded")
RATE_LIMITED = refusal(429, "Rate limit reached.", "requests", "rate_limit_exceeded", retry_after="7")
REJECTED = refusal(400, "Unsupported value: 'temperature'.", "invalid_request_error", "unsupported_value")
BAD_CREDENTIALS = refusal(
    401, "Incorrect API key provided: sk-scripted-***.", "invalid_request_error", "invalid_api_key"
)

CACHED_USAGE = {
    "prompt_tokens": 1000,
    "completion_tokens": 100,
    "total_tokens": 1100,
    "prompt_tokens_details": {"cached_tokens": 600},
}
REASONING_USAGE = {
    "prompt_tokens": 50,
    "completion_tokens": 100,
    "total_tokens": 150,
    "completion_tokens_details": {"reasoning_tokens": 40},
}
PROMPT_ONLY_USAGE = {"prompt_tokens": 50, "completion_tokens": 0, "total_tokens": 50}
ENORMOUS_USAGE = {"prompt_tokens": 40_000_000, "completion_tokens": 1_000, "total_tokens": 40_001_000}

BEHAVIOURS: dict[str, Behaviour] = {
    "test/ok": Behaviour(),
    "test/slow-first-byte": Behaviour(first_byte_after_s=0.4),
    "test/slow-chunks": Behaviour(chunk_every_s=0.05),
    "test/gated": Behaviour(gate_after_chunks=2),
    "test/hang": Behaviour(gate_after_chunks=0),
    "test/500": Behaviour(refusal=SERVER_ERROR),
    "test/503": Behaviour(refusal=OVERLOADED),
    "test/429": Behaviour(refusal=RATE_LIMITED),
    "test/400": Behaviour(refusal=REJECTED),
    "test/401": Behaviour(refusal=BAD_CREDENTIALS),
    "test/500-once": Behaviour(refusal=SERVER_ERROR, refuse_first=1),
    "test/500-twice": Behaviour(refusal=SERVER_ERROR, refuse_first=2),
    "test/429-once": Behaviour(refusal=RATE_LIMITED, refuse_first=1),
    "test/cut": Behaviour(cut_after_chunks=3),
    "test/cut-at-once": Behaviour(cut_after_chunks=0),
    "test/cut-at-once-once": Behaviour(cut_after_chunks=0, cut_first=1),
    "test/error-mid-stream": Behaviour(error_after_chunks=3),
    "test/error-at-once": Behaviour(error_after_chunks=0),
    "test/malformed": Behaviour(malformed=True),
    "test/no-usage": Behaviour(without_usage=True),
    "test/cached-usage": Behaviour(usage=CACHED_USAGE),
    "test/reasoning-usage": Behaviour(usage=REASONING_USAGE, reasoning="Let me think about that."),
    "test/usage-with-last-choice": Behaviour(usage_with_last_choice=True),
    "test/enormous-usage": Behaviour(usage=ENORMOUS_USAGE),
    "test/blank": Behaviour(text=""),
    "test/no-room": Behaviour(text="", finish_reason="insufficient_system_resource", usage=PROMPT_ONLY_USAGE),
    "test/content-filter": Behaviour(text="I can't", finish_reason="content_filter"),
    # The catalog entries of these differ, not their behaviour.
    "test/per-call": Behaviour(),
    "test/unpriced": Behaviour(),
    "test/text-only": Behaviour(),
    "test/refused": Behaviour(),
}
