"""The `tallygate` command."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from tallygate_deploy import budgets, keys, ledger_check, operator, payments, provider_keys, usage, verify
from tallygate_deploy.account import commands as account
from tallygate_deploy.cache_safety import command as cache_safety
from tallygate_deploy.data_dir import DataDir, DataDirError
from tallygate_deploy.installation import CannotStartError, RunInstallation, StartOptions
from tallygate_deploy.ledger_client import DEFAULT_DATA, DataOption
from tallygate_deploy.local_parts import LocalPartError
from tallygate_deploy.processes import ServiceDiedError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="One OpenAI-compatible endpoint in front of many model sources, which keeps the tally.",
)
app.add_typer(keys.app, name="key")
app.add_typer(operator.credit_app, name="credit")
app.add_typer(operator.receipt_app, name="receipt")
app.add_typer(budgets.app, name="cap")
app.add_typer(provider_keys.app, name="provider-key")
app.add_typer(payments.app, name="billing")
app.add_typer(ledger_check.app, name="ledger")
app.add_typer(account.app, name="account")
app.add_typer(usage.app, name="usage")

app.command("verify")(verify.command)
app.command("cache-safety")(cache_safety.command)

PortOption = Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free one.")]
HostOption = Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 for all.")]
CatalogOption = Annotated[
    Path | None,
    typer.Option(
        exists=True, dir_okay=False, help="An overlay on the catalog: sources, models, offers, prices, aliases (YAML)."
    ),
]
ReadyFileOption = Annotated[
    Path | None, typer.Option(help="When it can serve, write {base_url, api_key, pid} here as JSON.")
]
LocalModelOption = Annotated[
    bool | None,
    typer.Option(help="Serve the embedded model. By default only when no source in the catalog can be called."),
]
WorkersOption = Annotated[
    int,
    typer.Option(
        min=1,
        max=64,
        help="Processes that answer clients, on one port. From 2 on, edge and router are in them, and ledger, catalog "
        "and cache in this one; a Redis-protocol server from packages counts the rate limits of all.",
    ),
]
EdgesOption = Annotated[int, typer.Option("--workers", min=1, max=64, help="Edges on one port.")]


@app.command()
def up(
    port: PortOption = 8080,
    host: HostOption = "127.0.0.1",
    data: DataOption = DEFAULT_DATA,
    catalog: CatalogOption = None,
    ready_file: ReadyFileOption = None,
    local_model: LocalModelOption = None,
    workers: WorkersOption = 1,
) -> None:
    """All services in one process. SQLite, an in-process cache, no other server. SIGTERM drains and exits 0."""
    from tallygate_deploy import allinone  # noqa: PLC0415 - imports every service; other commands need not wait for it

    options = StartOptions(DataDir(data), host, port, catalog, ready_file, local_model, workers)
    _run_installation("up", allinone.run, options)


@app.command("mesh")
def mesh_command(
    port: PortOption = 8080,
    host: HostOption = "127.0.0.1",
    data: DataOption = Path("~/.tallygate-mesh"),
    catalog: CatalogOption = None,
    ready_file: ReadyFileOption = None,
    local_model: LocalModelOption = None,
    workers: EdgesOption = 1,
) -> None:
    """Each service in a process of its own, with PostgreSQL and a Redis-protocol server from packages."""
    from tallygate_deploy import mesh  # noqa: PLC0415 - as above

    options = StartOptions(DataDir(data), host, port, catalog, ready_file, local_model, workers)
    _run_installation("mesh", mesh.run, options)


@app.command("demo")
def demo_command(
    mode: Annotated[str, typer.Option(help='"mesh" for five processes, "up" for one.')] = "mesh",
) -> None:
    """A real model answers, its answer is replayed, both receipts and traces are shown. Ends with one line of JSON."""
    from tallygate_deploy import demo  # noqa: PLC0415 - as above

    try:
        asyncio.run(demo.run(mode))
    except (demo.DemoFailedError, ServiceDiedError, TimeoutError) as error:
        _fail(error)


@app.command("account-demo")
def account_demo_command(
    mode: Annotated[
        list[str] | None, typer.Option(help='"up" for one process, "mesh" for five; repeatable. Both if not given.')
    ] = None,
) -> None:
    """Projects, keys, caps, alerts, payments and exports, over HTTP in both modes. Ends with one line of JSON."""
    from tallygate_deploy.account_demo import stage, telling  # noqa: PLC0415 - as above

    try:
        asyncio.run(telling.run(tuple(mode or telling.MODES)))
    except (stage.NotShownError, ServiceDiedError, TimeoutError) as error:
        _fail(error)


def _run_installation(mode: str, run: RunInstallation, options: StartOptions) -> None:
    try:
        with options.data.locked():
            options.data.claim(mode)
            uvloop.run(run(options))
    except (DataDirError, CannotStartError, LocalPartError, ServiceDiedError, TimeoutError) as error:
        _fail(error)


def _fail(error: Exception) -> None:
    typer.echo(f"tallygate: {error}", err=True)
    raise typer.Exit(1) from None


def main() -> None:
    """Entry point of the `tallygate` script."""
    try:
        app()
    except DataDirError as error:
        sys.exit(f"tallygate: {error}")
