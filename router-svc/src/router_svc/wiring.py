"""The composition root of the router."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from meshkit.channels import Dial
from meshkit.clock import SystemClock
from meshkit.digests import new_salt
from meshkit.serve import Register
from meshkit.telemetry import Telemetry
from router_svc.clients.cache import GrpcCache
from router_svc.clients.catalog import WatchedCatalog
from router_svc.clients.fills import GrpcFills
from router_svc.clients.flights import GrpcFlights
from router_svc.clients.ledger import GrpcLedger
from router_svc.clients.provider_keys import WatchedProviderKeys
from router_svc.clients.trail import GrpcPriceTrail
from router_svc.domain.catalog import WireFormat
from router_svc.service.repricing import PriceTeller
from router_svc.service.router import Limits, RouterService
from router_svc.service.seam import CallSeam
from router_svc.servicer import RouterServicer
from router_svc.settings import RouterSettings, source_secret
from router_svc.sources.http.opening import open_http
from router_svc.sources.openai import OpenAISourceClient, OpenAITimeouts
from router_svc.sources.tokens import OfflineTokens
from tallygate.router.v1.router_pb2_grpc import add_RouterServiceServicer_to_server

_AFTER_THE_CALLERS_S = 1.0


@asynccontextmanager
async def build(
    settings: RouterSettings, dial: Dial, telemetry: Telemetry, *, seam: CallSeam | None = None
) -> AsyncIterator[Register]:
    """The router, ready to be registered; on exit calls under way are waited for and settled. ``seam``: for a test
    that kills the process in the middle of a call.
    """
    catalog = WatchedCatalog(
        dial(settings.catalog_addr), wait_s=settings.catalog_wait_s, watch_s=settings.catalog_watch_s
    )
    cache, ledger = dial(settings.cache_addr), dial(settings.ledger_addr)
    teller = PriceTeller(catalog, GrpcPriceTrail(ledger, timeout_s=settings.ledger_timeout_s))
    provider_keys = WatchedProviderKeys(
        ledger,
        SystemClock(),
        timeout_s=settings.ledger_timeout_s,
        kept_s=settings.provider_keys_kept_s,
        most_orgs=settings.provider_keys_orgs,
    )
    async with open_http(settings.source_http, max_connections=settings.max_connections) as http:
        openai = OpenAISourceClient(
            http,
            telemetry.tracer,
            source_secret,
            timeouts=OpenAITimeouts(settings.connect_timeout_s, settings.first_byte_timeout_s, settings.idle_timeout_s),
            max_answer_bytes=settings.max_answer_bytes,
        )
        service = RouterService(
            catalog=catalog,
            ledger=GrpcLedger(ledger, timeout_s=settings.ledger_timeout_s),
            provider_keys=provider_keys,
            cache=GrpcCache(cache, timeout_s=settings.cache_timeout_s),
            flights=GrpcFlights(cache, timeout_s=settings.cache_timeout_s),
            fills=GrpcFills(cache, timeout_s=settings.cache_timeout_s),
            clients={WireFormat.OPENAI: openai},
            has_secret=lambda env_name: source_secret(env_name) is not None,
            count_tokens=OfflineTokens(),
            new_salt=new_salt,
            clock=SystemClock(),
            limits=_limits(settings),
            seam=seam,
        )

        def register(server: grpc.aio.Server) -> None:
            add_RouterServiceServicer_to_server(RouterServicer(service), server)

        tasks = [
            asyncio.create_task(catalog.watch(), name="router watches catalog"),
            asyncio.create_task(teller.run(), name="router tells of prices"),
            asyncio.create_task(provider_keys.watch(), name="router watches provider keys"),
        ]
        try:
            yield register
        finally:
            # The server has drained: no caller is left to wait for. What goes on is for those who went away before.
            await service.aclose(_AFTER_THE_CALLERS_S)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _limits(settings: RouterSettings) -> Limits:
    return Limits(
        request_timeout_s=settings.request_timeout_s,
        drain_max_s=settings.drain_max_s,
        drain_max_bytes=settings.drain_max_bytes,
        max_answer_bytes=settings.max_answer_bytes,
        client_stall_s=settings.client_stall_s,
        client_queue_bytes=settings.client_queue_bytes,
        max_inflight=settings.max_inflight,
        max_inflight_per_source=settings.max_inflight_per_source,
        hold_ttl_s=settings.hold_ttl_s,
        settle_patience_s=settings.settle_patience_s,
        store_wait_s=settings.store_wait_s,
        flight_lease_s=settings.flight_lease_s,
        flight_patience_s=settings.flight_patience_s,
    )
