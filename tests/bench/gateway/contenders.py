"""The gateways that are compared, each started as its users start it, on one core and over the same source."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from tallygate_deploy.data_dir import DataDir
from tests.bench.cpu import command_line, cpu_s, family, rss_mib
from tests.bench.gateway.programs import (
    GATEWAY_CORE,
    LOAD_CORE,
    BenchError,
    all_but_the_load,
    free_port,
    pin,
    until_listening,
)
from tests.harness.gateway import COMMAND, NO_LIMITS, PROVIDER_KEYS, wait_until_ready

MODEL, PACED_MODEL = "bench/ok", "bench/paced"
SOURCE_KEY = "sk-bench"
DATABASES = {"postgres": "postgresql", "valkey": "redis", "redis": "redis"}
"""Programs whose CPU is not the gateway's: how they are named, and the part that they are."""
SETTINGS = NO_LIMITS | {
    "BENCH_API_KEY": SOURCE_KEY,
    # All that comes goes to one source here; by default a router sends it half of what the curve goes up to.
    "TALLYGATE_ROUTER_MAX_INFLIGHT_PER_SOURCE": "2000",
}


@dataclass(slots=True)
class Running:
    """A gateway that serves. ``root``: the process that all of its others descend from. ``caching``: fields of a body
    whose answer may be replayed; None: it has no cache. ``share``: of a scenario's requests, as its contender's.
    """

    port: int
    path: str
    headers: dict[str, str]
    root: int
    model: str = MODEL
    paced_model: str = PACED_MODEL
    caching: dict[str, object] | None = field(default_factory=dict)
    data: Path | None = None
    share: float = 1.0

    def processes(self) -> dict[str, list[int]]:
        """Its processes by service, and those of the databases under the names of ``DATABASES``."""
        found: dict[str, list[int]] = {}
        for root in (self.root, *self._postmaster()):
            for pid in family(root):
                found.setdefault(part_of(command_line(pid)), []).append(pid)
        return found

    def _postmaster(self) -> list[int]:
        """The server of PostgreSQL, if there is one. It leaves the family of whoever starts it."""
        written = None if self.data is None else DataDir(self.data).postgres / "postmaster.pid"
        return [int(written.read_text(encoding="utf-8").split()[0])] if written and written.exists() else []

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds so far, by service and of the databases."""
        return {name: cpu_s(pids) for name, pids in self.processes().items()}

    def rss_mib(self) -> dict[str, float]:
        """Resident memory by service, MiB, without databases."""
        found = {name: sum(map(rss_mib, pids)) for name, pids in self.processes().items() if not is_database(name)}
        return {name: mib for name, mib in found.items() if mib > 0}

    def move_databases(self) -> None:
        """Moves the databases to the core of the load: they are apart, as they would be on another machine."""
        found = self.processes()
        for pid in (pid for name, pids in found.items() if is_database(name) for pid in pids):
            for thread in Path(f"/proc/{pid}/task").glob("[0-9]*"):
                os.sched_setaffinity(int(thread.name), {LOAD_CORE})


def is_database(part: str) -> bool:
    """Whether it is apart: the figures of a gateway leave it out."""
    return part in DATABASES.values()


def part_of(command: list[str]) -> str:
    """The part of a gateway that a process is, by its command line."""
    text = " ".join(command)
    # A server by its path or by how it calls itself, or its guardian by what it guards.
    said = text.partition("tallygate_deploy.local_parts ")[2] or Path(command[0].split(" ")[0]).name if command else ""
    for program, part in DATABASES.items():
        if said.startswith(program):
            return part
    if "-m tallygate_deploy.worker" in text:
        return "worker"
    for service in ("edge", "router_svc", "cache_svc", "ledger_svc", "catalog_svc"):
        if f"-m {service}" in text:
            return service.removesuffix("_svc")
    return "gateway"


class Contender(Protocol):
    """A gateway that can be measured."""

    @property
    def name(self) -> str:
        """As in the result."""

    @property
    def version(self) -> str:
        """Of what is measured."""

    @property
    def share(self) -> float:
        """Of the requests of a scenario: a slow one would take up the whole time."""

    def missing(self) -> str:
        """Why it can't be measured on this machine; empty: it can."""

    def running(self, folder: Path, upstream_port: int) -> AbstractContextManager[Running]:
        """Serves inside the block."""


@dataclass(frozen=True, slots=True)
class Tallygate:
    """This gateway, in one of its modes, with the ledger on."""

    name: str
    command: str
    version: str = "this checkout"
    options: tuple[str, ...] = ()
    cores: tuple[int, ...] = (GATEWAY_CORE,)
    share: float = 1.0

    def missing(self) -> str:
        """It never is."""
        return ""

    @contextmanager
    def running(self, folder: Path, upstream_port: int) -> Iterator[Running]:
        """As `tallygate up` or `tallygate mesh`."""
        catalog, ready, log = folder / "catalog.yaml", folder / "ready.json", folder / "output.log"
        folder.mkdir(parents=True)
        catalog.write_text(overlay(upstream_port), encoding="utf-8")
        arguments = [
            "--port",
            "0",
            "--data",
            str(folder / "data"),
            "--ready-file",
            str(ready),
            "--catalog",
            str(catalog),
        ]
        variables = {name: value for name, value in os.environ.items() if name not in PROVIDER_KEYS}
        variables |= SETTINGS
        command = pin([str(COMMAND), self.command, *arguments, "--no-local-model", *self.options], *self.cores)
        with log.open("wb") as output:
            process = subprocess.Popen(command, env=variables, stdout=output, stderr=output)
        try:
            facts = wait_until_ready(process, ready, log)
            data = ["--data", str(folder / "data")]
            subprocess.run([COMMAND, "credit", "add", "100000", *data], check=True, capture_output=True, timeout=60)
            running = Running(
                int(facts["base_url"].rpartition(":")[2].partition("/")[0]),
                "/v1/chat/completions",
                {"authorization": f"Bearer {facts['api_key']}"},
                process.pid,
                data=folder / "data",
            )
            running.move_databases()
            yield running
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def overlay(port: int, api_key_env: str = "BENCH_API_KEY") -> str:
    """The source as an operator would tell Tallygate of it. JSON, which is YAML."""
    price = {"input": 1, "output": 2}
    models = {
        name: {
            "name": name,
            "owned_by": "bench",
            "context_tokens": 1_000_000,
            "max_output_tokens": 1_000,
            "capabilities": ["tools"],
            "released": "2026-01-01",
        }
        for name in (MODEL, PACED_MODEL)
    }
    source = {
        "name": "Bench",
        "base_url": f"http://127.0.0.1:{port}/v1",
        "api_key_env": api_key_env,
        "cancel_stops_billing": True,
    }
    offers = {f"bench/{name}": {"upstream_model": name, "price": price} for name in models}
    return json.dumps({"sources": {"bench": source}, "models": models, "offers": offers})


def allinone() -> Tallygate:
    """One process, SQLite."""
    return Tallygate("allinone", "up")


def mesh() -> Tallygate:
    """Five processes, PostgreSQL, a Redis-protocol server."""
    return Tallygate("mesh", "mesh")


def with_workers(contender: Tallygate, count: int) -> Tallygate:
    """The same with so many processes that answer clients, on all cores but that of the load."""
    return replace(contender, options=("--workers", str(count)), cores=tuple(all_but_the_load()))


@dataclass(frozen=True, slots=True)
class LiteLLM:
    """LiteLLM's proxy, without a database, one worker, its in-memory cache for requests that ask for it."""

    home: Path
    name: str = "litellm"
    version: str = "1.106.2"
    share: float = 0.15

    @property
    def _command(self) -> Path:
        return self.home / "litellm" / "bin" / "litellm"

    def missing(self) -> str:
        """Installs it at the first use, into a virtual environment of its own."""
        if self._command.exists():
            return ""
        folder = self.home / "litellm"
        uv = Path(sys.executable).with_name("uv")
        for command in (
            [str(uv), "venv", "--quiet", "--python", sys.executable, str(folder)],
            [
                str(uv),
                "pip",
                "install",
                "--quiet",
                "--python",
                str(folder / "bin" / "python"),
                f"litellm[proxy]=={self.version}",
            ],
        ):
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            if ended.returncode != 0:
                return f"could not be installed: {ended.stderr.strip()[-300:]}"
        return ""

    @contextmanager
    def running(self, folder: Path, upstream_port: int) -> Iterator[Running]:
        """As `litellm --config`."""
        folder.mkdir(parents=True)
        port, config = free_port(), folder / "config.yaml"
        models = [
            {
                "model_name": name,
                "litellm_params": {
                    "model": f"openai/{name}",
                    "api_base": f"http://127.0.0.1:{upstream_port}/v1",
                    "api_key": SOURCE_KEY,
                },
            }
            for name in (MODEL, PACED_MODEL)
        ]
        cache = {"type": "local", "mode": "default_off", "supported_call_types": ["acompletion", "completion"]}
        config.write_text(
            json.dumps(
                {
                    "model_list": models,
                    "litellm_settings": {"cache": True, "cache_params": cache, "telemetry": False},
                    "general_settings": {"master_key": "sk-bench-master"},
                }
            ),
            encoding="utf-8",
        )
        command = [
            str(self._command),
            "--config",
            str(config),
            "--port",
            str(port),
            "--host",
            "127.0.0.1",
            "--num_workers",
            "1",
        ]
        variables = {**os.environ, "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        variables.pop("VIRTUAL_ENV", None)
        with (folder / "output.log").open("wb") as output:
            process = subprocess.Popen(pin(command, GATEWAY_CORE), env=variables, stdout=output, stderr=output)
        try:
            until_listening(port, process, 120.0)
            yield Running(
                port,
                "/v1/chat/completions",
                {"authorization": "Bearer sk-bench-master"},
                process.pid,
                caching={"cache": {"use-cache": True}},
                share=self.share,
            )
        finally:
            _end(process)


@dataclass(frozen=True, slots=True)
class Portkey:
    """Portkey's gateway, which has no cache of its own."""

    home: Path
    name: str = "portkey"
    version: str = "1.15.2"
    share: float = 1.0

    @property
    def _script(self) -> Path:
        return self.home / "portkey" / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"

    def missing(self) -> str:
        """Installs it at the first use."""
        if self._script.exists():
            return ""
        folder = self.home / "portkey"
        folder.mkdir(parents=True, exist_ok=True)
        # With newer ones of this library each stream ends in "TypeError: immutable" on Node 20.
        wanted = {"dependencies": {"@portkey-ai/gateway": self.version}, "overrides": {"@hono/node-server": "1.13.0"}}
        (folder / "package.json").write_text(json.dumps(wanted), encoding="utf-8")
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund"]
        try:
            ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return "could not be installed: there is no npm"
        return "" if ended.returncode == 0 else f"could not be installed: {ended.stderr.strip()[-300:]}"

    @contextmanager
    def running(self, folder: Path, upstream_port: int) -> Iterator[Running]:
        """Its server, told by headers where the source is."""
        folder.mkdir(parents=True)
        port = free_port()
        command = pin(["node", str(self._script), "--headless", f"--port={port}"], GATEWAY_CORE)
        variables = {**os.environ, "NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"}
        with (folder / "output.log").open("wb") as output:
            process = subprocess.Popen(command, env=variables, stdout=output, stderr=output)
        try:
            until_listening(port, process, 60.0)
            headers = {
                "authorization": f"Bearer {SOURCE_KEY}",
                "x-portkey-provider": "openai",
                "x-portkey-custom-host": f"http://127.0.0.1:{upstream_port}/v1",
            }
            yield Running(port, "/v1/chat/completions", headers, process.pid, caching=None)
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def chosen(names: list[str], home: Path) -> list[Contender]:
    """The contenders of these names.

    Raises:
        BenchError: a name is not one.
    """
    known: dict[str, Contender] = {
        "allinone": allinone(),
        "mesh": mesh(),
        "litellm": LiteLLM(home),
        "portkey": Portkey(home),
    }
    if unknown := [name for name in names if name not in known]:
        raise BenchError(f"{unknown[0]!r} is not one of {', '.join(known)}")
    return [known[name] for name in names]
