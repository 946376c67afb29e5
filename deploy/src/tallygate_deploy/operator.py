"""`tallygate key`, `tallygate credit`, `tallygate receipt`: the operator's commands, over the ledger's own API.

They speak to the ledger that serves from the data folder, or at ``--ledger``; when nothing serves from the folder, they
open its ledger themselves for the moment of the command.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias, TypeVar

import grpc
import typer
from rich.console import Console
from rich.table import Column, Table

from edge.wire.receipts import receipt_json
from meshkit.channels import Dialer
from meshkit.deadlines import deadline
from meshkit.errors import MeshError, mesh_errors
from meshkit.ids import new_id
from meshkit.logs import configure_logging
from meshkit.money import format_usd, parse_usd
from meshkit.telemetry import Telemetry
from tallygate.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from tallygate_deploy.data_dir import DataDir, DataDirError, DataDirInUseError, Tenant

if TYPE_CHECKING:
    Ledger: TypeAlias = ledger_pb2_grpc.LedgerServiceAsyncStub

key_app = typer.Typer(no_args_is_help=True, help="API keys.")
credit_app = typer.Typer(no_args_is_help=True, help="Prepaid credit.")
receipt_app = typer.Typer(no_args_is_help=True, help="Receipts.")

DataOption = Annotated[
    Path, typer.Option("--data", envvar="TALLYGATE_DATA", help="The folder that `tallygate up` serves from.")
]
LedgerOption = Annotated[
    str | None,
    typer.Option("--ledger", envvar="TALLYGATE_LEDGER_ADDR", help="A running ledger, such as grpc://127.0.0.1:7003."),
]
DEFAULT_DATA = Path("~/.tallygate")
_TIMEOUT_S = 15.0
_console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)  # a pipe has no width: wrap nothing

T = TypeVar("T")


@asynccontextmanager
async def _ledger(data: DataDir, address: str | None) -> AsyncIterator[Ledger]:
    """A client of the ledger: the one named, the one that serves from the folder, or one opened for the moment."""
    if address is None:
        try:
            with data.locked():
                async with _opened_for_the_moment(data) as channel:
                    yield ledger_pb2_grpc.LedgerServiceStub(channel)
                return
        except DataDirInUseError:
            address = data.ledger_address()
            if address is None:
                raise DataDirError(f"the tallygate on {data.root} is still starting; try again in a moment") from None
    async with Dialer(Telemetry.off("tallygate-cli")) as dial:
        yield ledger_pb2_grpc.LedgerServiceStub(dial(address))


def _opened_for_the_moment(data: DataDir) -> AbstractAsyncContextManager[grpc.aio.Channel]:
    if data.mode == "mesh":
        raise DataDirError(f"nothing serves from {data.root}: start it with `tallygate mesh --data {data.root}`")
    from tallygate_deploy.allinone import ledger_alone  # noqa: PLC0415 - all services: seconds that others need not wait

    return ledger_alone(data)


def _ask(data: Path, address: str | None, question: Callable[[Ledger, DataDir], Awaitable[T]]) -> T:
    """Run one question against the ledger; a refusal is printed in one line and ends the command with 1."""
    configure_logging("tallygate-cli", level="warning")
    data_dir = DataDir(data)

    async def run() -> T:
        async with _ledger(data_dir, address) as ledger:
            with deadline(_TIMEOUT_S), mesh_errors():
                return await question(ledger, data_dir)

    try:
        return asyncio.run(run())
    except DataDirError as error:
        typer.echo(f"tallygate: {error}", err=True)
        raise typer.Exit(1) from None
    except MeshError as refused:
        where = f" (ledger at {address or data_dir.ledger_address() or data_dir.root})"
        typer.echo(f"tallygate: {refused.message or refused.status.name}{where}", err=True)
        raise typer.Exit(1) from None


def _tenant(data: DataDir, org: str | None, project: str | None = None) -> Tenant:
    """The organisation named, else the one that the first start made."""
    known = data.tenant()
    if org is None and known is None:
        raise typer.BadParameter(
            f"{data.root} has no organisation yet: run `tallygate up` first, or name one with --org"
        )
    if known is not None and (org is None or org == known.org_id):
        return Tenant(known.org_id, project or known.project_id)
    return Tenant(org or "", project or "")


OrgOption = Annotated[str | None, typer.Option("--org", help="The organisation; the first start's if not given.")]


@key_app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="A name for people.")],
    model: Annotated[
        list[str] | None, typer.Option("--model", help="A model id or glob that it may use; repeatable.")
    ] = None,
    expires_in_days: Annotated[
        float | None, typer.Option(min=0.0001, max=36_500, help="It ends by itself after so many days.")
    ] = None,
    org: OrgOption = None,
    project: Annotated[str | None, typer.Option("--project")] = None,
    data: DataOption = DEFAULT_DATA,
    ledger: LedgerOption = None,
) -> None:
    """Make a key. Its secret is printed once, on the last line."""

    async def ask(client: Ledger, folder: DataDir) -> ledger_pb2.CreateKeyResponse:
        tenant = _tenant(folder, org, project)
        expires_at = (
            dt.datetime.now(dt.UTC) + dt.timedelta(days=expires_in_days) if expires_in_days is not None else None
        )
        return await client.CreateKey(
            ledger_pb2.CreateKeyRequest(
                org_id=tenant.org_id,
                project_id=tenant.project_id,
                name=name,
                allowed_models=model or [],
                expires_at_ms=int(expires_at.timestamp() * 1000) if expires_at else 0,
            )
        )

    made = _ask(data, ledger, ask)
    typer.echo(f"{made.key.key_id} made. Its secret is shown once:", err=True)
    typer.echo(made.secret)


@key_app.command("list")
def list_keys(org: OrgOption = None, data: DataOption = DEFAULT_DATA, ledger: LedgerOption = None) -> None:
    """All keys, newest first, without secrets."""
    answer = _ask(data, ledger, lambda client, _: client.ListKeys(ledger_pb2.ListKeysRequest(org_id=org or "")))
    table = Table(Column("key", no_wrap=True), "name", "starts with", "models", "made", "state")
    for key in answer.keys:
        state = f"revoked {_when(key.revoked_at_ms)}" if key.revoked_at_ms else "active"
        if not key.revoked_at_ms and key.expires_at_ms:
            state = f"until {_when(key.expires_at_ms)}"
        table.add_row(
            key.key_id, key.name, key.prefix, ", ".join(key.allowed_models) or "any", _when(key.created_at_ms), state
        )
    _console.print(table)


@key_app.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(help="key_...")],
    org: OrgOption = None,
    data: DataOption = DEFAULT_DATA,
    ledger: LedgerOption = None,
) -> None:
    """End a key at once."""
    request = ledger_pb2.RevokeKeyRequest(key_id=key_id, org_id=org or "")
    ended = _ask(data, ledger, lambda client, _: client.RevokeKey(request))
    typer.echo(f"{ended.key.key_id} revoked {_when(ended.key.revoked_at_ms)}")


@credit_app.command("add")
def add_credit(
    amount_usd: Annotated[str, typer.Argument(help='A decimal amount, such as "20" or "0.50".')],
    promotional: Annotated[bool, typer.Option(help="Given, not paid for; spent first.")] = False,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Names this credit: sent twice under one name, it is added once.")
    ] = None,
    org: OrgOption = None,
    data: DataOption = DEFAULT_DATA,
    ledger: LedgerOption = None,
) -> None:
    """Add credit and show the balance."""
    try:
        amount = parse_usd(amount_usd)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None

    async def ask(client: Ledger, folder: DataDir) -> ledger_pb2.AddCreditResponse:
        return await client.AddCredit(
            ledger_pb2.AddCreditRequest(
                org_id=_tenant(folder, org).org_id,
                amount_nano_usd=amount,
                idempotency_key=idempotency_key or new_id("credit"),
                kind=ledger_pb2.CREDIT_KIND_PROMOTIONAL if promotional else ledger_pb2.CREDIT_KIND_PAID,
            )
        )

    _print_balance(_ask(data, ledger, ask).balance)


@credit_app.command("balance")
def show_balance(org: OrgOption = None, data: DataOption = DEFAULT_DATA, ledger: LedgerOption = None) -> None:
    """What the organisation has, holds and can spend."""

    async def ask(client: Ledger, folder: DataDir) -> ledger_pb2.GetBalanceResponse:
        return await client.GetBalance(ledger_pb2.GetBalanceRequest(org_id=_tenant(folder, org).org_id))

    _print_balance(_ask(data, ledger, ask).balance)


@receipt_app.command("show")
def show_receipt(
    receipt_id: Annotated[str, typer.Argument(help="rcpt_...")],
    org: OrgOption = None,
    data: DataOption = DEFAULT_DATA,
    ledger: LedgerOption = None,
) -> None:
    """One receipt, as JSON, in the form of GET /v1/receipts/{id}."""
    request = ledger_pb2.GetReceiptRequest(receipt_id=receipt_id, org_id=org or "")
    answer = _ask(data, ledger, lambda client, _: client.GetReceipt(request))
    typer.echo(json.dumps(receipt_json(answer.receipt) | {"jws": answer.jws}, indent=2, ensure_ascii=False))


def _print_balance(balance: ledger_pb2.Balance) -> None:
    typer.echo(
        f"{balance.org_id}: balance ${format_usd(balance.posted_nano_usd)}, "
        f"held ${format_usd(balance.held_nano_usd)} in {balance.open_holds} requests, "
        f"available ${format_usd(balance.available_nano_usd)}"
    )


def _when(at_ms: int) -> str:
    return dt.datetime.fromtimestamp(at_ms / 1000, dt.UTC).strftime("%Y-%m-%d %H:%M:%SZ")
