"""Tells the story in both modes, each on an installation of its own that is gone afterwards."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from tallygate_deploy.account_demo.receiver import receiving
from tallygate_deploy.account_demo.stage import NotShownError, Stage
from tallygate_deploy.account_demo.story import tell
from tallygate_deploy.processes import service_process, wait_for_file

MODES = ("up", "mesh")
_READY_WITHIN_S = 90.0
_STOP_AFTER_S = 45.0
_COMMAND_WITHIN_S = 60.0
_console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)


async def run(modes: tuple[str, ...] = MODES) -> None:
    """The whole demo. Ends with one line of JSON.

    Raises:
        NotShownError: a step did not show what it promises.
    """
    steps = passed = difference = 0
    for mode in modes:
        stage, found = await _in_mode(mode)
        steps, passed, difference = steps + len(stage.steps), passed + stage.passed, difference + found
    summary = {"steps": steps, "passed": passed, "reconciled_nano_usd_difference": difference}
    sys.stdout.write(json.dumps(summary) + "\n")


async def _in_mode(mode: str) -> tuple[Stage, int]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="tallygate-demo-")))
        receiver = await stack.enter_async_context(receiving(folder))
        what = "Five services" if mode == "mesh" else "All services in one process"
        _console.print(f"\n[bold]{what}[/], and a chat model")
        ready, data = folder / "ready.json", folder / "data"
        child = await stack.enter_async_context(
            service_process(
                f"tallygate {mode}",
                "tallygate_deploy",
                _environment(receiver.ca_file),
                arguments=(mode, "--port", "0", "--local-model", "--data", str(data), "--ready-file", str(ready)),
                log=folder / "output.log",
                stop_after_s=_STOP_AFTER_S,
            )
        )
        await wait_for_file(child, ready, within_s=_READY_WITHIN_S)
        base_url = json.loads(ready.read_text(encoding="utf-8"))["base_url"]
        stage = Stage(base_url, stack, _console.print)
        admin = await stage.client(await asyncio.to_thread(_account_key, data))
        difference = await tell(stage, admin, receiver)
        _tallygate("ledger", "check", "--data", str(data))
        stage.show("every rule of the ledger holds", holds=True)
        return stage, difference


def _environment(ca_file: Path) -> dict[str, str]:
    """Lets the ledger call the receiver on loopback, and be paid without a payment provider."""
    return {
        "TALLYGATE_LEDGER_WEBHOOK_CA_FILE": str(ca_file),
        "TALLYGATE_LEDGER_WEBHOOK_ALLOW_PRIVATE": json.dumps(["127.0.0.0/8", "::1/128"]),
        "TALLYGATE_LEDGER_BILLING_PROVIDER": "local",
    }


def _account_key(data: Path) -> str:
    made = _tallygate("key", "create", "admin", "--scope", "account", "--data", str(data))
    return made.splitlines()[-1].strip()


def _tallygate(*arguments: str) -> str:
    command = [sys.executable, "-m", "tallygate_deploy", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_WITHIN_S, check=False)  # noqa: S603
    if done.returncode != 0:
        raise NotShownError(f"tallygate {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
