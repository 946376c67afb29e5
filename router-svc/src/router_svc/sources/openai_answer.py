"""Reading an OpenAI-shaped answer off a response: the stream in batches, or the whole body."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import orjson

from router_svc.domain.answer import PlainAnswer, StreamBatch
from router_svc.domain.failure import FailureKind, SourceFailure
from router_svc.domain.usage.compatible import usage_of_source
from router_svc.sources.chunk import Chunk, error_event, read_chunk, tells
from router_svc.sources.http.port import HttpAnswer
from router_svc.sources.span import SourceSpan
from router_svc.sources.sse import EventTooLarge, SseParser

_DONE = b"[DONE]"
_NOTHING = Chunk(b"")
_MOST_ERROR_BYTES = 64 * 1024
_ERROR_PATIENCE_S = 5.0


class StreamReader:
    """Reads one stream. ``begin`` waits for its first event, ``batches`` gives all."""

    def __init__(self, answer: HttpAnswer, span: SourceSpan, *, cached_beside_prompt: bool, most_bytes: int) -> None:
        self._answer = answer
        self._span = span
        self._cached_beside_prompt = cached_beside_prompt
        self._parser = SseParser(most_bytes)
        self._first = StreamBatch()
        self._failure: SourceFailure | None = None

    async def begin(self, within_s: float) -> None:
        """Wait for the first event.

        Raises:
            SourceFailure: it is an error, or the answer is not a stream, or there is none.
        """
        if self._answer.header("content-type").startswith("application/json"):
            raise await self._not_a_stream()
        try:
            self._first = await self._next(asyncio.get_running_loop().time() + within_s)
        except SourceFailure as failure:
            if failure.kind is not FailureKind.TIMEOUT:
                raise
            raise SourceFailure(FailureKind.TIMEOUT, "no event in time", http_status=200) from None
        if _is_empty(self._first):
            raise SourceFailure(FailureKind.PROTOCOL, "an empty stream", http_status=200)
        if self._first.payloads and not _is_object(self._first.payloads[0]):
            # Later chunks are relayed unread; a source that is broken shows it here, while another can still be tried.
            raise SourceFailure(FailureKind.PROTOCOL, "the first event is not a JSON object", http_status=200)

    async def batches(self) -> AsyncIterator[StreamBatch]:
        """One batch for each read with an event in it, the first again."""
        batch = self._first
        while not _is_empty(batch):
            yield batch
            if batch.done:
                return
            batch = await self._next()
        if batch.done:
            yield batch

    async def _next(self, by: float | None = None) -> StreamBatch:
        """The next read that has an event in it; an empty batch at the end."""
        if self._failure is not None:
            raise self._failure
        try:
            while read := await self._answer.read(by):
                events = [event for event in self._parser.feed(read) if event]
                if events:
                    batch = self._batch(events)
                    if batch.done:
                        await self._answer.finish()
                    return batch
        except EventTooLarge:
            raise SourceFailure(FailureKind.TOO_LARGE, "an event is larger than allowed") from None
        return self._batch(_whole_events(self._parser.finish()))

    def _batch(self, events: list[bytes]) -> StreamBatch:
        """What the events give up to the end or to an error; an error after others is kept for the next read."""
        relayed: list[bytes] = []
        told = _NOTHING
        finished: frozenset[int] = frozenset()
        reasons: frozenset[str] = frozenset()
        done = said_since_usage = False
        for event in events:
            if not tells(event):
                if event == _DONE:
                    done = True
                    break
                relayed.append(event)
                said_since_usage = True
                continue
            try:
                chunk = read_chunk(event, cached_beside_prompt=self._cached_beside_prompt)
            except SourceFailure as failure:
                if not relayed:
                    raise
                self._failure = failure
                break
            if chunk.relayed:
                relayed.append(chunk.relayed)
            if chunk.usage_chunk:
                told, said_since_usage = chunk, False
            else:
                said_since_usage = True
            finished |= chunk.finished
            reasons |= frozenset(chunk.finish_reasons)
            self._span.told(model=chunk.model, finish_reasons=chunk.finish_reasons, usage=chunk.usage)
        return StreamBatch(tuple(relayed), told.usage_chunk, told.usage, finished, done, said_since_usage, reasons)

    async def _not_a_stream(self) -> SourceFailure:
        try:
            parsed = orjson.loads(await read_beginning(self._answer))
        except orjson.JSONDecodeError:
            parsed = None
        if isinstance(parsed, dict) and parsed.get("error"):
            return error_event(parsed["error"])
        return SourceFailure(FailureKind.PROTOCOL, "not an event stream", http_status=200)


async def read_whole(
    answer: HttpAnswer, span: SourceSpan, *, cached_beside_prompt: bool, most_bytes: int
) -> PlainAnswer:
    """The whole answer.

    Raises:
        SourceFailure: cut, too large, or not a completion.
    """
    parts: list[bytes] = []
    size = 0
    while part := await answer.read():
        parts.append(part)
        size += len(part)
        if size > most_bytes:
            raise SourceFailure(FailureKind.TOO_LARGE, "the answer is larger than allowed", http_status=200)
    body = b"".join(parts)
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise SourceFailure(FailureKind.PROTOCOL, "the answer is not valid JSON", http_status=200) from None
    if isinstance(parsed, dict) and parsed.get("error"):
        raise error_event(parsed["error"])
    if not isinstance(parsed, dict) or not isinstance(parsed.get("choices"), list):
        raise SourceFailure(FailureKind.PROTOCOL, "the answer is not a completion", http_status=200)
    usage = usage_of_source(parsed.get("usage"), cached_beside_prompt=cached_beside_prompt)
    reasons = [choice.get("finish_reason") for choice in parsed["choices"] if isinstance(choice, dict)]
    if "error" in reasons:
        raise SourceFailure(FailureKind.ERROR_EVENT, "the source ended its answer with an error", http_status=200)
    told = tuple(str(reason) for reason in reasons if reason)
    span.told(model=str(parsed.get("model") or ""), finish_reasons=told, usage=usage)
    return PlainAnswer(body, usage, frozenset(told))


async def read_beginning(answer: HttpAnswer) -> bytes:
    """As much of an error's body as is worth reading; what comes in time."""
    parts: list[bytes] = []
    size = 0
    by = asyncio.get_running_loop().time() + _ERROR_PATIENCE_S
    try:
        while part := await answer.read(by):
            parts.append(part)
            size += len(part)
            if size > _MOST_ERROR_BYTES:
                break
    except SourceFailure:
        return b""  # the status alone says enough
    return b"".join(parts)[:_MOST_ERROR_BYTES]


def _is_empty(batch: StreamBatch) -> bool:
    return not (batch.payloads or batch.usage_chunk)


def _is_object(payload: bytes) -> bool:
    try:
        return isinstance(orjson.loads(payload), dict)
    except orjson.JSONDecodeError:
        return False


def _whole_events(events: list[bytes]) -> list[bytes]:
    """Of what the end of a stream left, that which was not cut short."""
    whole: list[bytes] = []
    for event in events:
        try:
            if event != _DONE:
                orjson.loads(event)
        except orjson.JSONDecodeError:
            continue
        whole.append(event)
    return whole
