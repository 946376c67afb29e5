"""How the operator's commands reach the ledger: the one that serves from the data folder, or at ``--ledger``; when
nothing serves from the folder, they open its ledger themselves for the moment of the command.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias, TypeVar

import grpc
import typer

from meshkit.channels import Dialer
from meshkit.deadlines import deadline
from meshkit.errors import MeshError, mesh_errors
from meshkit.logs import configure_logging
from meshkit.money import parse_usd
from meshkit.telemetry import Telemetry
from tallygate.ledger.v1 import billing_pb2_grpc, ledger_pb2_grpc, usage_pb2_grpc
from tallygate_deploy.data_dir import DataDir, DataDirError, DataDirInUseError, Tenant

if TYPE_CHECKING:
    Ledger: TypeAlias = ledger_pb2_grpc.LedgerServiceAsyncStub
    Billing: TypeAlias = billing_pb2_grpc.BillingServiceAsyncStub
    UsageClient: TypeAlias = usage_pb2_grpc.UsageServiceAsyncStub

DataOption = Annotated[
    Path, typer.Option("--data", envvar="TALLYGATE_DATA", help="The folder that `tallygate up` serves from.")
]
LedgerOption = Annotated[
    str | None,
    typer.Option("--ledger", envvar="TALLYGATE_LEDGER_ADDR", help="A running ledger, such as grpc://127.0.0.1:7003."),
]
DEFAULT_DATA = Path("~/.tallygate")
_TIMEOUT_S = 15.0
_PROVIDER_TIMEOUT_S = 60.0

S = TypeVar("S")
T = TypeVar("T")


@asynccontextmanager
async def _channel(data: DataDir, address: str | None) -> AsyncIterator[grpc.aio.Channel]:
    """To the ledger: the one named, the one that serves from the folder, or one opened for the moment."""
    if address is None:
        try:
            with data.locked():
                async with _opened_for_the_moment(data) as channel:
                    yield channel
                return
        except DataDirInUseError:
            address = data.ledger_address()
            if address is None:
                raise DataDirError(f"the tallygate on {data.root} is still starting; try again in a moment") from None
    async with Dialer(Telemetry.off("tallygate-cli")) as dial:
        yield dial(address)


def _opened_for_the_moment(data: DataDir) -> AbstractAsyncContextManager[grpc.aio.Channel]:
    if data.mode == "mesh":
        raise DataDirError(f"nothing serves from {data.root}: start it with `tallygate mesh --data {data.root}`")
    from tallygate_deploy.allinone import ledger_alone  # noqa: PLC0415 - all services: seconds that others need not wait

    return ledger_alone(data)


def ask(data: Path, address: str | None, question: Callable[[Ledger, DataDir], Awaitable[T]]) -> T:
    """Run one question against the ledger; a refusal is printed in one line and ends the command with 1."""
    return ask_service(data, address, ledger_pb2_grpc.LedgerServiceStub, question)


def ask_billing(data: Path, address: str | None, question: Callable[[Billing], Awaitable[T]]) -> T:
    """The same of the billing service, which may ask a payment provider in turn."""
    stub_of = billing_pb2_grpc.BillingServiceStub
    return ask_service(data, address, stub_of, lambda client, _: question(client), timeout_s=_PROVIDER_TIMEOUT_S)


def ask_usage(data: Path, address: str | None, question: Callable[[UsageClient], Awaitable[T]]) -> T:
    """The same, of its usage."""
    return ask_service(data, address, usage_pb2_grpc.UsageServiceStub, lambda client, _: question(client))


def ask_service(
    data: Path,
    address: str | None,
    stub_of: Callable[[grpc.aio.Channel], S],
    question: Callable[[S, DataDir], Awaitable[T]],
    *,
    timeout_s: float = _TIMEOUT_S,
) -> T:
    """As ``ask``, of another of the ledger's services."""
    configure_logging("tallygate-cli", level="warning")
    data_dir = DataDir(data)

    async def run() -> T:
        async with _channel(data_dir, address) as channel:
            with deadline(timeout_s), mesh_errors():
                return await question(stub_of(channel), data_dir)

    try:
        return asyncio.run(run())
    except DataDirError as error:
        typer.echo(f"tallygate: {error}", err=True)
        raise typer.Exit(1) from None
    except MeshError as refused:
        where = f" (ledger at {address or data_dir.ledger_address() or data_dir.root})"
        typer.echo(f"tallygate: {refused.message or refused.status.name}{where}", err=True)
        raise typer.Exit(1) from None


def tenant_of(data: DataDir, org: str | None, project: str | None = None) -> Tenant:
    """The organisation named, else the one that the first start made.

    Raises:
        typer.BadParameter: there is neither.
    """
    known = data.tenant()
    if org is None and known is None:
        raise typer.BadParameter(
            f"{data.root} has no organisation yet: run `tallygate up` first, or name one with --org"
        )
    if known is not None and (org is None or org == known.org_id):
        return Tenant(known.org_id, project or known.project_id)
    return Tenant(org or "", project or "")


OrgOption = Annotated[str | None, typer.Option("--org", help="The organisation; the first start's if not given.")]


def nano_usd(amount_usd: str) -> int:
    """Of a decimal amount of USD.

    Raises:
        typer.BadParameter: it is not one.
    """
    try:
        return parse_usd(amount_usd)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def when(at_ms: int) -> str:
    """A moment, for people."""
    return dt.datetime.fromtimestamp(at_ms / 1000, dt.UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def days_from_now_ms(days: float | None) -> int:
    """Unix time in milliseconds; 0, which is never, for None."""
    return int((dt.datetime.now(dt.UTC) + dt.timedelta(days=days)).timestamp() * 1000) if days is not None else 0
