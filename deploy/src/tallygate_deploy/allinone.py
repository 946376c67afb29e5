"""`tallygate up`: every service in one process, over local channels, on SQLite and an in-process cache.

With `--workers` the parts that keep nothing, edge and router, are in several processes more.
"""

from __future__ import annotations

import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import grpc
from pydantic import SecretStr

import edge.wiring
import ledger_svc.wiring
from cache_svc.settings import CacheSettings
from catalog_svc.settings import CatalogSettings
from edge.serving import running_http
from ledger_svc.settings import LedgerSettings
from meshkit.channels import Dialer
from meshkit.heap import settle_heap
from meshkit.local import LocalNetwork
from meshkit.logs import configure_logging
from meshkit.serve import running, until_signalled
from meshkit.telemetry import Telemetry
from router_svc.settings import RouterSettings
from tallygate_deploy import worker
from tallygate_deploy.composition import Addresses, Builds, Composition, ServiceSettings, edge_settings
from tallygate_deploy.data_dir import DataDir
from tallygate_deploy.first_start import provision
from tallygate_deploy.installation import StartOptions, announce, base_url, fresh_ready_file, listening, sharing
from tallygate_deploy.local_parts import valkey
from tallygate_deploy.model_choice import ModelChoice, chosen_models
from tallygate_deploy.shared_port import SharedPort
from tallygate_deploy.workers import WorkerProgram, Workers

_STOP_AFTER_S = 75.0  # a little more than an edge and then its router take to drain


@dataclass(frozen=True, slots=True)
class Served:
    """A running all-in-one."""

    url: str
    ledger: grpc.aio.Channel


async def run(options: StartOptions, builds: Builds | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then let running requests finish. ``builds``: of the services, if not as usual."""
    configure_logging("tallygate")
    async with AsyncExitStack() as stack:
        if options.workers == 1:
            listener = stack.enter_context(listening(options))
            models = await stack.enter_async_context(chosen_models(options))
            served = await stack.enter_async_context(serving(options, models, listener, builds))
        else:
            port = stack.enter_context(sharing(options))
            models = await stack.enter_async_context(chosen_models(options))
            served = await stack.enter_async_context(serving_by_workers(options, models, port, builds))
        stack.enter_context(fresh_ready_file(options))
        welcome = await provision(options.data, served.ledger, mint_key=options.ready_file is not None)
        announce(options, served.url, welcome, model=models.example)
        settle_heap()
        await until_signalled()


@asynccontextmanager
async def serving(
    options: StartOptions, models: ModelChoice, listener: socket.socket, builds: Builds | None = None
) -> AsyncIterator[Served]:
    """All services, and the edge on ``listener``, inside the block."""
    async with AsyncExitStack() as stack:
        composition = await stack.enter_async_context(Composition(builds=builds))
        # Its path must fit a socket address (107 characters), which a data folder's may not.
        private = stack.enter_context(tempfile.TemporaryDirectory(prefix="tallygate-"))
        operator_address = f"unix://{private}/ledger.sock"
        found = await composition.serve_four(
            service_settings(options.data, models), Addresses(), operator_address=operator_address
        )
        stack.enter_context(options.data.announced_ledger(operator_address))
        dial, telemetry = await composition.node("edge")
        settings = edge_settings(found)
        app = await stack.enter_async_context(edge.wiring.build(settings, dial, telemetry))
        bound = await stack.enter_async_context(
            running_http(
                app,
                settings.host,
                settings.port,
                fd=listener.detach(),
                drain_s=settings.drain_s,
                keep_alive_s=settings.keep_alive_s,
            )
        )
        yield Served(base_url(options.host, int(bound.rpartition(":")[2])), dial(found.ledger))


@asynccontextmanager
async def serving_by_workers(
    options: StartOptions, models: ModelChoice, port: SharedPort, builds: Builds | None = None
) -> AsyncIterator[Served]:
    """What is kept (ledger, catalog, cache) in this process, and in each worker an edge and a router. ADR 0047.

    Raises:
        ServiceDiedError: a worker did not start.
        LocalPartError: the server that counts the rate limits of all workers did not.
    """
    async with AsyncExitStack() as stack:
        limits_url = await stack.enter_async_context(valkey(options.data.root / "valkey"))
        composition = await stack.enter_async_context(Composition(builds=builds))
        private = stack.enter_context(tempfile.TemporaryDirectory(prefix="tallygate-"))
        wanted = Addresses(*(f"unix://{private}/{name}.sock" for name in ("catalog", "ledger", "cache")))
        found = await composition.serve_kept(service_settings(options.data, models), wanted)
        stack.enter_context(options.data.announced_ledger(found.ledger))
        program = WorkerProgram(
            "worker",
            worker.__name__,
            worker.environment(found, limits_url),
            options.data.root / "logs",
            _STOP_AFTER_S,
        )
        await stack.enter_async_context(Workers(program, options.workers, port).running())
        dial = await stack.enter_async_context(Dialer(Telemetry.off("tallygate")))
        yield Served(base_url(options.host, port.port), dial(found.ledger))


def service_settings(data: DataDir, models: ModelChoice) -> ServiceSettings:
    """What differs from the defaults when the services live on one data folder."""
    return ServiceSettings(
        catalog=CatalogSettings(overlays=models.overlays, revisions_dir=data.revisions),
        ledger=ledger_settings(data),
        cache=CacheSettings(url="memory://"),
        router=RouterSettings(),
    )


def ledger_settings(data: DataDir) -> LedgerSettings:
    """The ledger on the folder's SQLite file."""
    return LedgerSettings(
        database_url=f"sqlite+aiosqlite:///{data.ledger_db}",
        peppers={1: SecretStr(data.pepper())},
        signing_keys={kid: SecretStr(seed) for kid, seed in data.signing_keys().items()},
        secrets_keys={kid: SecretStr(key) for kid, key in data.secrets_keys().items()},
    )


@asynccontextmanager
async def ledger_alone(data: DataDir) -> AsyncIterator[grpc.aio.Channel]:
    """Only the ledger, for an operator's command while nothing serves from the folder."""
    telemetry, network = Telemetry.off("tallygate-cli"), LocalNetwork()
    async with (
        Dialer(telemetry, network) as dial,
        ledger_svc.wiring.build(ledger_settings(data), dial, telemetry) as register,
        running(register, "local://ledger", telemetry, local=network) as address,
    ):
        yield dial(address)
