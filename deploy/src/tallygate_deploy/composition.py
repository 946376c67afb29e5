"""The services in one process, each with its own telemetry, joined by whatever addresses they are given.

All-in-one gives them ``local://`` addresses; the contract suite runs the same composition on sockets.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TypeVar

import cache_svc.settings
import cache_svc.wiring
import catalog_svc.settings
import catalog_svc.wiring
import ledger_svc.settings
import ledger_svc.wiring
import router_svc.settings
import router_svc.wiring
from edge.settings import EdgeSettings
from meshkit.channels import Dial, Dialer
from meshkit.local import LocalNetwork
from meshkit.serve import Register, running
from meshkit.telemetry import Telemetry

S = TypeVar("S")
Build = Callable[[S, Dial, Telemetry], AbstractAsyncContextManager[Register]]
MakeTelemetry = Callable[[str], Telemetry]


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where each service listens, and so where the others dial it."""

    catalog: str = "local://catalog"
    ledger: str = "local://ledger"
    cache: str = "local://cache"
    router: str = "local://router"


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """The settings of the four services, but for the addresses that they find each other at."""

    catalog: catalog_svc.settings.CatalogSettings
    ledger: ledger_svc.settings.LedgerSettings
    cache: cache_svc.settings.CacheSettings
    router: router_svc.settings.RouterSettings


@dataclass(frozen=True, slots=True)
class Builds:
    """How each service is built. Another one passes what its wiring takes beyond settings: a test's seams, say."""

    catalog: Build[catalog_svc.settings.CatalogSettings] = catalog_svc.wiring.build
    ledger: Build[ledger_svc.settings.LedgerSettings] = ledger_svc.wiring.build
    cache: Build[cache_svc.settings.CacheSettings] = cache_svc.wiring.build
    router: Build[router_svc.settings.RouterSettings] = router_svc.wiring.build


def edge_settings(addresses: Addresses) -> EdgeSettings:
    """Of an edge that dials all four at ``addresses``."""
    return EdgeSettings(
        catalog_addr=addresses.catalog,
        ledger_addr=addresses.ledger,
        cache_addr=addresses.cache,
        router_addr=addresses.router,
    )


class Composition:
    """Services that run in this process. An async context manager; they stop in the reverse order of their start."""

    def __init__(
        self,
        make_telemetry: MakeTelemetry = Telemetry.start,
        builds: Builds | None = None,
        *,
        exchange: bool = True,
    ) -> None:
        self._builds = builds or Builds()
        self.network = LocalNetwork()
        self._exchange = exchange
        self._make_telemetry = make_telemetry
        self._stack = AsyncExitStack()

    async def node(self, name: str) -> tuple[Dialer, Telemetry]:
        """What a process of the name would have: its telemetry and a dialer of its own."""
        telemetry = self._make_telemetry(f"tallygate-{name}")
        self._stack.callback(telemetry.shutdown)
        return await self._stack.enter_async_context(
            Dialer(telemetry, self.network, exchange=self._exchange)
        ), telemetry

    async def serve(self, name: str, build: Build[S], settings: S, *at: str, drain_s: float) -> list[str]:
        """Build a service and serve it at each address of ``at``; gives the addresses as bound."""
        dial, telemetry = await self.node(name)
        register = await self._stack.enter_async_context(build(settings, dial, telemetry))
        return [
            await self._stack.enter_async_context(
                running(register, address, telemetry, local=self.network, drain_s=drain_s)
            )
            for address in at
        ]

    async def serve_four(
        self, settings: ServiceSettings, addresses: Addresses, *, operator_address: str | None = None
    ) -> Addresses:
        """Catalog, ledger, cache and router, each dialling the others where they were bound; gives those addresses.

        ``operator_address``: the ledger listens there too, for the operator's command line.
        """
        found = await self.serve_kept(settings, addresses, operator_address=operator_address)
        return await self.serve_router(settings.router, found)

    async def serve_kept(
        self, settings: ServiceSettings, addresses: Addresses, *, operator_address: str | None = None
    ) -> Addresses:
        """Catalog, ledger and cache: those that keep something. As ``serve_four``."""
        ledger_at = [addresses.ledger, *([operator_address] if operator_address else [])]
        catalog, *_ = await self.serve(
            "catalog", self._builds.catalog, settings.catalog, addresses.catalog, drain_s=settings.catalog.drain_s
        )
        ledger, *_ = await self.serve(
            "ledger", self._builds.ledger, settings.ledger, *ledger_at, drain_s=settings.ledger.drain_s
        )
        cache, *_ = await self.serve(
            "cache", self._builds.cache, settings.cache, addresses.cache, drain_s=settings.cache.drain_s
        )
        return Addresses(catalog, ledger, cache, addresses.router)

    async def serve_router(self, settings: router_svc.settings.RouterSettings, addresses: Addresses) -> Addresses:
        """The router, which dials the other three at ``addresses``; gives them with its own as bound."""
        routed = settings.model_copy(
            update={
                "catalog_addr": addresses.catalog,
                "ledger_addr": addresses.ledger,
                "cache_addr": addresses.cache,
            }
        )
        (router,) = await self.serve("router", self._builds.router, routed, addresses.router, drain_s=routed.drain_s)
        return replace(addresses, router=router)

    async def __aenter__(self) -> Composition:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(exc_type, exc, traceback)
