"""All sources behind one door: the adapter of each wire format, and how many calls each source may have at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

from router_svc.domain.answer import PlainAnswer, StreamBatch
from router_svc.domain.catalog import WireFormat
from router_svc.domain.failure import FailureKind, SourceFailure
from router_svc.service.ports import SourceCall, SourceClient


class Sources:
    """Calls a candidate's source through the adapter of its wire format, within the bound of calls a source."""

    def __init__(self, clients: Mapping[WireFormat, SourceClient], *, max_inflight_per_source: int) -> None:
        self._clients = dict(clients)
        self._max_inflight = max_inflight_per_source
        self._inflight: Counter[str] = Counter()

    @property
    def formats(self) -> frozenset[WireFormat]:
        """The wire formats that can be spoken."""
        return frozenset(self._clients)

    @asynccontextmanager
    async def stream(self, call: SourceCall) -> AsyncIterator[AsyncIterator[StreamBatch]]:
        """As SourceClient.stream; BUSY where the source has as many calls under way as it may."""
        source = call.candidate.source
        with self._place(source.source_id):
            async with self._clients[source.wire_format].stream(call) as batches:
                yield batches

    async def ask(self, call: SourceCall) -> PlainAnswer:
        """As SourceClient.ask; BUSY where the source has as many calls under way as it may."""
        source = call.candidate.source
        with self._place(source.source_id):
            return await self._clients[source.wire_format].ask(call)

    @contextmanager
    def _place(self, source_id: str) -> Iterator[None]:
        if self._inflight[source_id] >= self._max_inflight:
            raise SourceFailure(FailureKind.BUSY, "as many calls are under way as this router allows")
        self._inflight[source_id] += 1
        try:
            yield
        finally:
            self._inflight[source_id] -= 1
            if not self._inflight[source_id]:
                del self._inflight[source_id]
