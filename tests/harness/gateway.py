"""A running Tallygate, started as a user starts it: the `tallygate` command, in either mode, as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tallygate_deploy.span_receiver import SpanReceiver
    from tests.harness.tenants import Tenants
    from tests.upstream.server import ScriptedUpstream

COMMAND = Path(sys.executable).with_name("tallygate")
START_WITHIN_S = 90.0
STOP_WITHIN_S = 45.0
PROVIDER_KEYS = (
    "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "ARK_API_KEY", "DASHSCOPE_API_KEY", "DEEPSEEK_API_KEY",
    "OPENROUTER_API_KEY", "MOONSHOT_API_KEY", "MISTRAL_API_KEY", "GROQ_API_KEY", "XAI_API_KEY",
)  # fmt: skip
NO_LIMITS = {"TALLYGATE_LEDGER_REQUESTS_PER_MINUTE": "0", "TALLYGATE_EDGE_ACCOUNT_REQUESTS_PER_MINUTE": "0"}
"""Lifts the rate limits of keys that have none of their own: a suite sends more from one key than they allow."""


@dataclass(frozen=True, slots=True)
class RunningGateway:
    """What the ready-file said, and the process itself."""

    mode: str
    base_url: str
    api_key: str
    data: Path
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def ledger_addr(self) -> str:
        """Where the ledger answers its operator."""
        return (self.data / "ledger.addr").read_text(encoding="utf-8").strip()

    def tallygate(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the operator's command line against this installation."""
        from tests.harness.commands import tallygate  # all services: what only starts processes need not wait for it

        return tallygate(*arguments, "--data", self.data)


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway and all that a test needs around it."""

    process: RunningGateway
    upstream: ScriptedUpstream
    spans: SpanReceiver
    tenants: Tenants
    api_key: str
    """With credit."""
    poor_key: str
    """Of an organisation without credit."""
    revoked_key: str

    @property
    def base_url(self) -> str:
        """What a client sets as ``base_url``."""
        return self.process.base_url


@contextmanager
def running_gateway(
    mode: str,
    data: Path,
    *,
    catalog: Path | None = None,
    environment: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
) -> Iterator[RunningGateway]:
    """`tallygate up` (mode "allinone") or `tallygate mesh` (mode "mesh") on a free port; SIGTERM must give exit 0."""
    data.mkdir(parents=True, exist_ok=True)
    ready, log = data / "ready.json", data / "output.log"
    ready.unlink(missing_ok=True)
    command = [
        COMMAND,
        "up" if mode == "allinone" else "mesh",
        "--port",
        "0",
        "--data",
        str(data),
        "--ready-file",
        str(ready),
    ]
    if catalog is not None:
        command += ["--catalog", str(catalog)]
    command += options
    clean = {
        name: value for name, value in os.environ.items() if name not in PROVIDER_KEYS and not name.startswith("OTEL_")
    }
    with log.open("ab") as output:
        variables = {**clean, **NO_LIMITS, **(environment or {})}
        process = subprocess.Popen(command, env=variables, stdout=output, stderr=output)
    try:
        facts = wait_until_ready(process, ready, log)
        yield RunningGateway(mode, facts["base_url"], facts["api_key"], data, process, log)
    finally:
        stop(process, log)


def wait_until_ready(process: subprocess.Popen[bytes], ready: Path, log: Path) -> dict[str, str]:
    give_up_at = time.monotonic() + START_WITHIN_S
    while not ready.exists():
        if process.poll() is not None:
            raise AssertionError(f"tallygate ended with {process.returncode}:\n{_tail(log)}")
        if time.monotonic() > give_up_at:
            raise AssertionError(f"tallygate is not ready after {START_WITHIN_S} s:\n{_tail(log)}")
        time.sleep(0.05)
    facts: dict[str, str] = json.loads(ready.read_text(encoding="utf-8"))
    return facts


def stop(process: subprocess.Popen[bytes], log: Path) -> None:
    """SIGTERM, and exit 0 within the time to drain."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"tallygate did not stop within {STOP_WITHIN_S} s:\n{_tail(log)}") from None
    assert process.returncode == 0, f"tallygate ended with {process.returncode}:\n{_tail(log)}"


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-40:])
