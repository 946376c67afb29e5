"""One payload of an OpenAI stream: what it means beyond text for the client. Most are never parsed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import orjson

from meshkit.money import Usage
from router_svc.domain.failure import FailureKind, SourceFailure
from router_svc.domain.usage.compatible import usage_of_source

tells = re.compile(rb'"(?:usage"\s*:\s*\{|error"\s*:\s*[{"]|finish_reason"\s*:\s*")').search
"""Finds a key of one of these names whose value says something; a payload without one is text for the client. The text
of an answer can't match: there, quotes are escaped.
"""


@dataclass(frozen=True, slots=True)
class Chunk:
    """``relayed``: for the client, empty where nothing is. ``usage_chunk``: empty where it tells no usage."""

    relayed: bytes
    usage_chunk: bytes = b""
    usage: Usage | None = None
    finished: frozenset[int] = frozenset()
    model: str = ""
    finish_reasons: tuple[str, ...] = ()


def read_chunk(payload: bytes, *, cached_beside_prompt: bool) -> Chunk:
    """Read one payload.

    A pure usage chunk is not relayed. A chunk with choices and usage (DeepSeek, Mistral, Gemini) is relayed without the
    usage, and its usage stands in ``usage_chunk`` with empty choices, as OpenAI would send it.

    Raises:
        SourceFailure: it is an error event.
    """
    if not tells(payload):
        return Chunk(payload)
    try:
        parsed = orjson.loads(payload)
    except orjson.JSONDecodeError:
        raise SourceFailure(FailureKind.PROTOCOL, "an event is not valid JSON") from None
    if not isinstance(parsed, dict):
        return Chunk(payload)
    if not isinstance(parsed.get("choices") or [], list):
        raise SourceFailure(FailureKind.PROTOCOL, "choices of an event are not a list")
    if parsed.get("error"):
        raise error_event(parsed["error"])
    choices = [choice for choice in parsed.get("choices") or () if isinstance(choice, dict)]
    ended = [choice for choice in choices if choice.get("finish_reason")]
    finished = frozenset(index for choice in ended if isinstance(index := choice.get("index", 0), int))
    model = str(parsed.get("model") or "")
    reasons = tuple(str(choice["finish_reason"]) for choice in ended)
    if "error" in reasons:
        raise SourceFailure(FailureKind.ERROR_EVENT, "the source ended its answer with an error")
    block = _usage_block(parsed, choices)
    if not isinstance(block, dict):
        return Chunk(payload, b"", None, finished, model, reasons)
    usage = usage_of_source(block, cached_beside_prompt=cached_beside_prompt)
    if not choices:
        return Chunk(b"", payload, usage, finished, model, reasons)
    usage_chunk = orjson.dumps({**_without_usage(parsed), "choices": [], "usage": block})
    return Chunk(orjson.dumps(_without_usage(parsed)), usage_chunk, usage, finished, model, reasons)


def error_event(error: Any) -> SourceFailure:
    """The failure that an error object inside a stream, or in place of an answer, stands for."""
    message = error.get("message") if isinstance(error, dict) else error
    code = error.get("code") if isinstance(error, dict) else None
    text = message if isinstance(message, str) else "the source sent an error"
    limited = isinstance(code, int | str) and code in {429, "429", "rate_limit_exceeded"}
    kind = FailureKind.RATE_LIMITED if limited else FailureKind.ERROR_EVENT
    return SourceFailure(kind, text[:500], code=str(code or ""))


def _usage_block(parsed: dict[str, Any], choices: list[dict[str, Any]]) -> Any:
    """Where sources put usage: at the top, in ``x_groq``, in a choice (Moonshot)."""
    extension = parsed.get("x_groq")
    in_extension = extension.get("usage") if isinstance(extension, dict) else None
    in_choice = next((choice["usage"] for choice in choices if choice.get("usage")), None)
    return parsed.get("usage") or in_extension or in_choice


def _without_usage(parsed: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in parsed.items() if name != "usage"}
    if isinstance(kept.get("x_groq"), dict):
        kept["x_groq"] = {name: value for name, value in kept["x_groq"].items() if name != "usage"}
    if kept.get("choices"):
        kept["choices"] = [
            {name: value for name, value in choice.items() if name != "usage"} if isinstance(choice, dict) else choice
            for choice in kept["choices"]
        ]
    return kept
