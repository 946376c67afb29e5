"""Sources that speak OpenAI's chat completions, over HTTP.

Wire: https://platform.openai.com/docs/api-reference/chat, and what others make of it (see openai_answer.py, refusal.py
and domain/usage/).
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus

import orjson
from opentelemetry import trace
from pydantic import SecretStr

from router_svc.domain.answer import PlainAnswer, StreamBatch
from router_svc.domain.failure import FailureKind, SourceFailure
from router_svc.domain.plan import Candidate
from router_svc.service.ports import SourceCall
from router_svc.sources.body import asks_only_for_usage, body_for_source
from router_svc.sources.http.port import HttpAnswer, SourceHttp
from router_svc.sources.openai_answer import StreamReader, read_beginning, read_whole
from router_svc.sources.refusal import redacted, refusal_of
from router_svc.sources.span import SourceSpan

_STREAM_OPTIONS = re.compile(r"\bstream_options\b")
_PATH = "/chat/completions"


@dataclass(frozen=True, slots=True)
class OpenAITimeouts:
    """In seconds; see RouterSettings."""

    connect_s: float = 5.0
    first_byte_s: float = 60.0
    idle_s: float = 60.0


class OpenAISourceClient:
    """Calls any OpenAI-compatible source. ``secret_of`` gives the key in a named environment variable: the operator's,
    for calls without the organisation's own.
    """

    def __init__(
        self,
        http: SourceHttp,
        tracer: trace.Tracer,
        secret_of: Callable[[str], SecretStr | None],
        *,
        timeouts: OpenAITimeouts,
        max_answer_bytes: int,
    ) -> None:
        self._http = http
        self._tracer = tracer
        self._secret_of = secret_of
        self._timeouts = timeouts
        self._max_answer_bytes = max_answer_bytes
        self._without_stream_options: set[str] = set()

    @asynccontextmanager
    async def stream(self, call: SourceCall) -> AsyncIterator[AsyncIterator[StreamBatch]]:
        """As SourceClient.stream."""
        source = call.candidate.source
        with SourceSpan(self._tracer, call.candidate) as span:
            answer = await self._begin_stream(call, span)
            try:
                reader = StreamReader(
                    answer, span, cached_beside_prompt=source.cached_beside_prompt, most_bytes=self._max_answer_bytes
                )
                await reader.begin(self._timeouts.first_byte_s)
                yield reader.batches()
            except SourceFailure as failure:
                raise self._without_secrets(failure, call.candidate) from failure.__cause__
            finally:
                answer.close()

    async def ask(self, call: SourceCall) -> PlainAnswer:
        """As SourceClient.ask."""
        source = call.candidate.source
        with SourceSpan(self._tracer, call.candidate) as span:
            body = body_for_source(call.body, model=call.candidate.offer.upstream_model, stream=False)
            answer = await self._send(call, span, body, stream=False)
            try:
                return await read_whole(
                    answer, span, cached_beside_prompt=source.cached_beside_prompt, most_bytes=self._max_answer_bytes
                )
            except SourceFailure as failure:
                raise self._without_secrets(failure, call.candidate) from failure.__cause__
            finally:
                answer.close()

    def _key_for(self, candidate: Candidate) -> str:
        if candidate.own_key is not None:
            return candidate.own_key.secret.reveal()
        secret = self._secret_of(candidate.source.api_key_env)
        return secret.get_secret_value() if secret else ""

    def _without_secrets(self, failure: SourceFailure, candidate: Candidate) -> SourceFailure:
        """A source's own words can name the key; the caller is another, or another of the organisation."""
        failure.message = redacted(failure.message, self._key_for(candidate))
        return failure

    async def _begin_stream(self, call: SourceCall, span: SourceSpan) -> HttpAnswer:
        """Send; once more without stream_options where the source knows them not (Mistral answers them with 422)."""
        source_id, model = call.candidate.source.source_id, call.candidate.offer.upstream_model
        if source_id not in self._without_stream_options:
            try:
                return await self._send(call, span, body_for_source(call.body, model=model, stream=True), stream=True)
            except SourceFailure as failure:
                refused = failure.kind is FailureKind.REJECTED and _STREAM_OPTIONS.search(failure.message)
                if not refused or not asks_only_for_usage(orjson.loads(call.body).get("stream_options")):
                    raise
        body = body_for_source(call.body, model=model, stream=True, ask_usage=False)
        answer = await self._send(call, span, body, stream=True)
        # Only now is it known that the source minds the field, and not something else that the client sent.
        self._without_stream_options.add(source_id)
        return answer

    async def _send(self, call: SourceCall, span: SourceSpan, body: bytes, *, stream: bool) -> HttpAnswer:
        source = call.candidate.source
        key = self._key_for(call.candidate)
        timeouts = self._timeouts
        # A stream may be silent for so long and no longer, also before it begins.
        answer = await self._http.post(
            source.base_url + _PATH,
            _headers(key, span, stream=stream),
            body,
            connect_s=timeouts.connect_s,
            head_s=min(timeouts.first_byte_s, timeouts.idle_s) if stream else call.timeout_s,
            read_s=timeouts.idle_s if stream else call.timeout_s,
        )
        span.answered(answer.status)
        if answer.status == HTTPStatus.OK:
            return answer
        try:
            raise refusal_of(
                answer.status,
                await read_beginning(answer),
                key,
                retry_after=answer.header("retry-after"),
                own_key=call.candidate.own_key is not None,
            )
        finally:
            answer.close()


def _headers(key: str, span: SourceSpan, *, stream: bool) -> dict[str, str]:
    headers = {
        "accept": "text/event-stream" if stream else "application/json",
    }
    if key:
        headers["authorization"] = f"Bearer {key}"
    headers.update(span.headers)
    return headers
