"""`tallygate usage`: the operator's commands on the sums of usage."""

from __future__ import annotations

import typer

from tallygate.ledger.v1 import usage_pb2
from tallygate_deploy.ledger_client import DEFAULT_DATA, DataOption, LedgerOption, ask_usage

app = typer.Typer(no_args_is_help=True, help="Usage.")


@app.callback()
def _usage() -> None:
    """Keeps `rebuild` a command of its own."""


@app.command("rebuild")
def rebuild(data: DataOption = DEFAULT_DATA, ledger: LedgerOption = None) -> None:
    """Throw the sums of all organisations away; the ledger makes them up again from the receipts."""
    answer = ask_usage(data, ledger, lambda client: client.RebuildUsage(usage_pb2.RebuildUsageRequest()))
    typer.echo(f"the sums are made up again, from {answer.receipts} leaves of the log")
