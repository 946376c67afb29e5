"""What came back from a source so far, and how it ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import orjson

from meshkit.money import Usage
from router_svc.domain.plan import Candidate

_BROKEN_FINISHES = frozenset({"error", "insufficient_system_resource"})
"""Finish reasons that say that the source failed (OpenRouter's, DeepSeek's). ``content_filter`` is not among them: it
is an answer that the source stands by and bills."""
_REASONING_FIELDS = ("reasoning_content", "reasoning")
_VISIBLE_FIELDS = ("content", "refusal")


class Outcome(Enum):
    """How an answer ended; the values are those of the contract."""

    COMPLETE = 1
    CLIENT_GONE = 2
    INTERRUPTED = 3


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call of a source, for the record. ``failure`` is empty for the winner."""

    offer_id: str
    started_at_ms: int
    duration_ms: int
    http_status: int
    won: bool
    failure: str = ""


@dataclass(frozen=True, slots=True)
class StreamBatch:
    """What one read of a source's stream gave.

    ``payloads``: for the client, without usage. ``usage_chunk``: for the end. ``finished``: choices that gave their
    finish reason, and ``finish_reasons`` what those were. ``done``: the source said that this is the end.
    ``said_since_usage``: something of ``payloads`` came after ``usage``, which is then only the usage so far.
    """

    payloads: tuple[bytes, ...] = ()
    usage_chunk: bytes = b""
    usage: Usage | None = None
    finished: frozenset[int] = frozenset()
    done: bool = False
    said_since_usage: bool = False
    finish_reasons: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class PlainAnswer:
    """A whole answer as one JSON body, verbatim. ``usage`` None: the source was silent. ``finish_reasons``: those that
    are not blank.
    """

    body: bytes
    usage: Usage | None
    finish_reasons: frozenset[str] = frozenset()


@dataclass(slots=True)
class Delivery:
    """An answer as it grows. The first ``delivered`` of the ``payloads`` were handed on to the client."""

    candidate: Candidate
    started_at_ms: int
    payloads: list[bytes] = field(default_factory=list)
    received_bytes: int = 0
    delivered: int = 0
    usage_chunk: bytes = b""
    usage: Usage | None = None
    usage_is_current: bool = False
    """Nothing was said since the source told ``usage``."""
    finished: set[int] = field(default_factory=set)
    finish_reasons: set[str] = field(default_factory=set)
    done: bool = False
    body: bytes = b""

    @property
    def begun(self) -> bool:
        """The source gave something that a client could have seen or that tells what was used."""
        return bool(self.payloads or self.body or self.usage_chunk)

    def is_complete(self, choices: int) -> bool:
        """The source gave the whole answer, or said that this was all."""
        return bool(self.body) or self.done or len(self.finished) >= choices

    def take(self, batch: StreamBatch) -> None:
        """Add one read of the stream."""
        self.payloads.extend(batch.payloads)
        self.received_bytes += sum(map(len, batch.payloads)) + len(batch.usage_chunk)
        self.usage_chunk = batch.usage_chunk or self.usage_chunk
        self.usage = batch.usage or self.usage
        if batch.usage is not None:
            self.usage_is_current = not batch.said_since_usage
        elif batch.payloads:
            self.usage_is_current = False
        self.finished |= batch.finished
        self.finish_reasons |= batch.finish_reasons
        self.done = self.done or batch.done

    def take_whole(self, answer: PlainAnswer) -> None:
        """Take an answer that came as one body."""
        self.body, self.usage = answer.body, answer.usage
        self.finish_reasons |= answer.finish_reasons

    def came_to_nothing(self, usage: Usage) -> bool:
        """It ended without output, and its source gave no reason for the end but a failure of its own."""
        said = usage.output_tokens + usage.reasoning_tokens + usage.images + usage.seconds
        return not said and self.finish_reasons <= _BROKEN_FINISHES and not any(self.texts())

    def texts(self) -> tuple[str, str]:
        """What the client was given: visible text, and reasoning."""
        chunks = [self.body] if self.body else self.payloads[: self.delivered]
        visible: list[str] = []
        reasoning: list[str] = []
        for chunk in chunks:
            for message in _messages_of(chunk):
                visible.extend(_texts_in(message, _VISIBLE_FIELDS))
                reasoning.extend(_texts_in(message, _REASONING_FIELDS))
                visible.extend(_tool_texts(message))
        return "".join(visible), "".join(reasoning)


def _messages_of(chunk: bytes) -> Iterable[Mapping[str, Any]]:
    try:
        parsed = orjson.loads(chunk)
    except orjson.JSONDecodeError:
        return  # relayed as it came; it has no text that could be counted
    for choice in (parsed.get("choices") if isinstance(parsed, dict) else None) or ():
        if isinstance(choice, dict):
            message = choice.get("delta") or choice.get("message")
            if isinstance(message, dict):
                yield message


def _texts_in(message: Mapping[str, Any], names: tuple[str, ...]) -> Iterable[str]:
    for name in names:
        if isinstance(message.get(name), str) and message[name]:
            yield message[name]
            return  # sources that give a text under two names mean the same text


def _tool_texts(message: Mapping[str, Any]) -> Iterable[str]:
    calls = [call.get("function") for call in message.get("tool_calls") or () if isinstance(call, dict)]
    for function in (*calls, message.get("function_call")):
        if isinstance(function, dict):
            yield from (str(function[name]) for name in ("name", "arguments") if function.get(name))
