"""`tallygate mesh`: five processes on one machine, with PostgreSQL and a Redis-protocol server from packages.

Each service is started as in a cluster: `python -m SERVICE`, told by its environment where the others are. With
`--workers` there are as many edges, on one port.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from meshkit.channels import Dialer
from meshkit.logs import configure_logging
from meshkit.serve import until_signalled
from meshkit.telemetry import Telemetry
from tallygate_deploy.data_dir import DataDir
from tallygate_deploy.first_start import provision
from tallygate_deploy.installation import StartOptions, announce, base_url, fresh_ready_file, listening, sharing
from tallygate_deploy.local_parts import postgres, valkey
from tallygate_deploy.model_choice import ModelChoice, chosen_models
from tallygate_deploy.processes import ServiceProcess, service_process, until_one_dies
from tallygate_deploy.shared_port import SharedPort
from tallygate_deploy.workers import WorkerProgram, Workers

_READY_WITHIN_S = 60.0
_STOP_AFTER_S = 40.0  # a little more than a service takes to drain
_POLL_S = 0.05

GRPC_SERVICES = ("catalog", "ledger", "cache", "router")
"""In the order of their start; they stop in the reverse order, after the edge."""


async def run(options: StartOptions) -> None:
    """Serve until SIGTERM or SIGINT, or until a service dies.

    Raises:
        ServiceDiedError: with the end of its log.
        TimeoutError: a service is not healthy in time.
    """
    configure_logging("tallygate-mesh")
    async with AsyncExitStack() as stack:
        front: socket.socket | SharedPort = (
            stack.enter_context(listening(options)) if options.workers == 1 else stack.enter_context(sharing(options))
        )
        models = await stack.enter_async_context(chosen_models(options))
        database_url = await stack.enter_async_context(postgres(options.data.postgres))
        cache_url = await stack.enter_async_context(valkey(options.data.root / "valkey"))
        # Unix sockets: no port has to be free, and nothing on the network reaches past the edge. Not in the data
        # folder, since a socket's path has room for 107 characters.
        private = stack.enter_context(tempfile.TemporaryDirectory(prefix="tallygate-mesh-"))
        addresses = {name: f"unix://{private}/{name}.sock" for name in GRPC_SERVICES}
        environments = service_environments(options.data, models, addresses, database_url, cache_url)
        children = [
            await stack.enter_async_context(_started(options, name, environments[name])) for name in GRPC_SERVICES
        ]
        dial = await stack.enter_async_context(Dialer(Telemetry.off("tallygate-mesh")))
        await asyncio.gather(*(until_healthy(child, dial(addresses[child.name])) for child in children))
        if isinstance(front, SharedPort):
            port = front.port
            program = WorkerProgram("edge", "edge", environments["edge"], options.data.root / "logs", _STOP_AFTER_S)
            await stack.enter_async_context(Workers(program, options.workers, front).running())
        else:
            port = front.getsockname()[1]
            children.append(await stack.enter_async_context(_started_edge(options, environments["edge"], front)))
        await until_edge_ready(children, base_url(options.host, port))
        stack.enter_context(options.data.announced_ledger(addresses["ledger"]))
        stack.enter_context(fresh_ready_file(options))
        mint_key = options.ready_file is not None
        welcome = await provision(options.data, dial(addresses["ledger"]), mint_key=mint_key)
        announce(options, base_url(options.host, port), welcome, model=models.example)
        await _until_stopped(children)


@asynccontextmanager
async def _started_edge(
    options: StartOptions, environment: Mapping[str, str], listener: socket.socket
) -> AsyncIterator[ServiceProcess]:
    """The only one, which takes the socket over."""
    fd = listener.fileno()
    async with _started(options, "edge", {**environment, "TALLYGATE_EDGE_FD": str(fd)}, fds=[fd]) as child:
        listener.close()
        yield child


def service_environments(
    data: DataDir, models: ModelChoice, addresses: Mapping[str, str], database_url: str, cache_url: str
) -> dict[str, dict[str, str]]:
    """What each process reads at its start, as in a cluster."""
    dials = {
        "router": ("catalog", "ledger", "cache"),
        "edge": ("catalog", "ledger", "cache", "router"),
    }
    environments = {
        name: {f"TALLYGATE_{name.upper()}_{other.upper()}_ADDR": addresses[other] for other in dials.get(name, ())}
        for name in (*GRPC_SERVICES, "edge")
    }
    for name in GRPC_SERVICES:
        environments[name][f"TALLYGATE_{name.upper()}_LISTEN"] = addresses[name]
    environments["catalog"]["TALLYGATE_CATALOG_OVERLAYS"] = os.pathsep.join(map(str, models.overlays))
    environments["catalog"]["TALLYGATE_CATALOG_REVISIONS_DIR"] = str(data.revisions)
    environments["ledger"]["TALLYGATE_LEDGER_DATABASE_URL"] = database_url
    environments["ledger"]["TALLYGATE_LEDGER_PEPPERS"] = json.dumps({"1": data.pepper()})
    environments["ledger"]["TALLYGATE_LEDGER_SIGNING_KEYS"] = json.dumps(data.signing_keys())
    environments["ledger"]["TALLYGATE_LEDGER_SECRETS_KEYS"] = json.dumps(data.secrets_keys())
    environments["cache"]["TALLYGATE_CACHE_URL"] = cache_url
    environments["edge"]["TALLYGATE_EDGE_LIMITS_URL"] = cache_url
    return environments


def _started(
    options: StartOptions, name: str, environment: Mapping[str, str], fds: Sequence[int] = ()
) -> AbstractAsyncContextManager[ServiceProcess]:
    module = name if name == "edge" else f"{name}_svc"
    log = options.data.root / "logs" / f"{name}.log"
    return service_process(name, module, environment, log=log, stop_after_s=_STOP_AFTER_S, pass_fds=fds)


async def until_healthy(child: ServiceProcess, channel: grpc.aio.Channel) -> None:
    """Waits until the service says SERVING."""
    health: Any = health_pb2_grpc.HealthStub(channel)  # its stubs know the threaded channel only
    serving = health_pb2.HealthCheckResponse.SERVING
    async with asyncio.timeout(_READY_WITHIN_S):
        while True:
            child.assert_alive()
            try:
                answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=1.0)
            except grpc.aio.AioRpcError:
                answer = None  # not listening yet; whether it still lives is asked above
            if answer is not None and answer.status == serving:
                return
            await asyncio.sleep(_POLL_S)


async def until_edge_ready(children: Sequence[ServiceProcess], url: str) -> None:
    """Waits until an edge can reach all that it needs, and that ``children`` live meanwhile."""
    async with asyncio.timeout(_READY_WITHIN_S), httpx.AsyncClient() as client:
        while True:
            for child in children:
                child.assert_alive()
            try:
                if (await client.get(url.removesuffix("/v1") + "/readyz")).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass  # the socket is ours and open; the edge has not taken it over yet
            await asyncio.sleep(_POLL_S)


async def _until_stopped(children: list[ServiceProcess]) -> None:
    """Returns at a signal.

    Raises:
        ServiceDiedError: a service ended first.
    """
    tasks = {asyncio.create_task(until_one_dies(children)), asyncio.create_task(until_signalled())}
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        task.result()
