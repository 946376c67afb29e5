"""The span of one call of a source, by the GenAI semantic conventions. Never a prompt, an answer or a key.

Source: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans.
"""

from __future__ import annotations

from types import TracebackType
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from meshkit.money import Usage
from meshkit.trace_context import to_metadata
from router_svc.domain.failure import SourceFailure
from router_svc.domain.plan import Candidate


class SourceSpan:
    """A CLIENT span ``chat {model}`` from the call's beginning to its end."""

    def __init__(self, tracer: trace.Tracer, candidate: Candidate) -> None:
        offer = candidate.offer
        self._span = tracer.start_span(f"chat {offer.upstream_model}", kind=SpanKind.CLIENT)
        # Not sampled, as most are: then nobody would read them.
        self._is_recorded = self._span.is_recording()
        if self._is_recorded:
            address = urlsplit(candidate.source.base_url)
            port = address.port or (443 if address.scheme == "https" else 80)
            self._span.set_attributes(
                {
                    "gen_ai.operation.name": "chat",
                    "gen_ai.provider.name": offer.source_id,
                    "gen_ai.request.model": offer.upstream_model,
                    "server.address": address.hostname or "",
                    "server.port": port,
                }
            )

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """What tells the source of the trace (W3C)."""
        return to_metadata(self._span.get_span_context())

    def answered(self, http_status: int) -> None:
        """The source answered with this status."""
        if self._is_recorded:
            self._span.set_attribute("http.response.status_code", http_status)

    def told(self, *, model: str, finish_reasons: tuple[str, ...], usage: Usage | None) -> None:
        """What the source told of its answer."""
        if not self._is_recorded:
            return
        if model:
            self._span.set_attribute("gen_ai.response.model", model)
        if finish_reasons:
            self._span.set_attribute("gen_ai.response.finish_reasons", finish_reasons)
        if usage is not None:
            self._span.set_attribute("gen_ai.usage.input_tokens", usage.prompt_tokens)
            self._span.set_attribute("gen_ai.usage.output_tokens", usage.output_tokens + usage.reasoning_tokens)

    def __enter__(self) -> SourceSpan:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and self._is_recorded:
            word = error.kind.value if isinstance(error, SourceFailure) else type(error).__name__
            self._span.set_attribute("error.type", word)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()
