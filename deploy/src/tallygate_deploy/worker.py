"""One worker of `tallygate up --workers N`: an edge and a router in one process, over a local channel.

It keeps nothing that another worker would have to know: ledger, catalog and cache are where its environment says, and
so are the counts of the rate limits.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

import uvloop

import edge.wiring
from edge.serving import serve_http
from edge.settings import EdgeSettings
from meshkit.logs import configure_logging
from router_svc.settings import RouterSettings
from tallygate_deploy.composition import Addresses, Composition, edge_settings


def environment(addresses: Addresses, limits_url: str) -> dict[str, str]:
    """What a worker is started with: where everything is that the workers share."""
    shared = {"CATALOG": addresses.catalog, "LEDGER": addresses.ledger, "CACHE": addresses.cache}
    found = {
        f"TALLYGATE_{service}_{name}_ADDR": address
        for service in ("EDGE", "ROUTER")
        for name, address in shared.items()
    }
    return {**found, "TALLYGATE_EDGE_LIMITS_URL": limits_url}


async def main() -> None:
    """Settings, composition, serve until SIGTERM."""
    told, routing = EdgeSettings(), RouterSettings()
    configure_logging("tallygate-worker", level=told.log_level)
    shared = Addresses(told.catalog_addr, told.ledger_addr, told.cache_addr)
    async with AsyncExitStack() as stack:
        composition = await stack.enter_async_context(Composition())
        found = await composition.serve_router(routing, shared)
        dial, telemetry = await composition.node("edge")
        settings = edge_settings(found)
        app = await stack.enter_async_context(edge.wiring.build(settings, dial, telemetry))
        await serve_http(
            app,
            settings.host,
            settings.port,
            fd=settings.fd,
            drain_s=settings.drain_s,
            keep_alive_s=settings.keep_alive_s,
        )


if __name__ == "__main__":
    uvloop.run(main())
