"""`tallygate cap`: what a key, a project or the organisation may spend in a day or a month."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from meshkit.money import format_usd
from tallygate.ledger.v1 import ledger_pb2
from tallygate_deploy.data_dir import DataDir
from tallygate_deploy.ledger_client import (
    DEFAULT_DATA,
    DataOption,
    LedgerOption,
    OrgOption,
    ask,
    nano_usd,
    tenant_of,
    when,
)

if TYPE_CHECKING:
    from tallygate_deploy.ledger_client import Ledger

app = typer.Typer(no_args_is_help=True, help="Caps on spending, by key, project and organisation.")

_console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)  # a pipe has no width: wrap nothing


class Period(StrEnum):
    """After which a cap starts anew, in UTC."""

    DAY = "day"
    MONTH = "month"


_PERIODS = {Period.DAY: ledger_pb2.CAP_PERIOD_DAY, Period.MONTH: ledger_pb2.CAP_PERIOD_MONTH}
_PERIOD_WORDS = {number: period.value for period, number in _PERIODS.items()}
_SCOPES = {
    "key_": ledger_pb2.CAP_SCOPE_KEY,
    "prj_": ledger_pb2.CAP_SCOPE_PROJECT,
    "org_": ledger_pb2.CAP_SCOPE_ORGANIZATION,
}

WhoseArgument = Annotated[str, typer.Argument(help="key_..., prj_... or org_...")]
PeriodOption = Annotated[Period, typer.Option(help="After which it starts anew, at midnight UTC.")]


@app.command("set")
def set_cap(
    whose: WhoseArgument,
    usd: Annotated[str | None, typer.Option(help='A decimal amount of USD, such as "20".')] = None,
    tokens: Annotated[int | None, typer.Option(min=0, help="A number of tokens instead.")] = None,
    period: PeriodOption = Period.MONTH,
    org: OrgOption = None,
    data: DataOption = DEFAULT_DATA,
    ledger: LedgerOption = None,
) -> None:
    """Bound what it may spend. What was spent in the period before counts."""
    if (usd is None) == (tokens is None):
        raise typer.BadParameter("give one of --usd and --tokens")
    unit = ledger_pb2.CAP_UNIT_TOKENS if usd is None else ledger_pb2.CAP_UNIT_NANO_USD
    limit = nano_usd(usd) if usd is not None else tokens
    _print([_change(whose, period, unit, limit, org, data, ledger)])


@app.command("clear")
def clear_cap(
    whose: WhoseArgument,
    tokens: Annotated[bool, typer.Option("--tokens", help="The cap in tokens, not the one in USD.")] = False,
    period: PeriodOption = Period.MONTH,
    org: OrgOption = None,
    data: DataOption = DEFAULT_DATA,
    ledger: LedgerOption = None,
) -> None:
    """Lift a cap."""
    unit = ledger_pb2.CAP_UNIT_TOKENS if tokens else ledger_pb2.CAP_UNIT_NANO_USD
    _change(whose, period, unit, None, org, data, ledger)
    typer.echo(f"{whose} has no cap in {'tokens' if tokens else 'USD'} for a {period.value}")


@app.command("list")
def list_caps(org: OrgOption = None, data: DataOption = DEFAULT_DATA, ledger: LedgerOption = None) -> None:
    """Every cap, with what is spent and held now and when it starts anew."""

    async def question(client: Ledger, folder: DataDir) -> ledger_pb2.ListCapsResponse:
        return await client.ListCaps(ledger_pb2.ListCapsRequest(org_id=tenant_of(folder, org).org_id))

    _print(list(ask(data, ledger, question).caps))


def _change(
    whose: str,
    period: Period,
    unit: ledger_pb2.CapUnit.ValueType,
    limit: int | None,
    org: str | None,
    data: DataOption,
    ledger: str | None,
) -> ledger_pb2.Cap:
    scope = _SCOPES.get(whose[:4])
    if scope is None:
        raise typer.BadParameter(f"{whose} is not an id of a key, a project or an organisation")

    async def question(client: Ledger, folder: DataDir) -> ledger_pb2.SetCapResponse:
        return await client.SetCap(
            ledger_pb2.SetCapRequest(
                org_id=tenant_of(folder, org).org_id,
                scope=scope,
                scope_id=whose,
                period=_PERIODS[period],
                unit=unit,
                limit=limit,
            )
        )

    return ask(data, ledger, question).cap


def _print(caps: list[ledger_pb2.Cap]) -> None:
    table = Table(Column("whose", no_wrap=True), "period", "cap", "spent", "held", "starts anew")
    for cap in caps:
        in_usd = cap.unit == ledger_pb2.CAP_UNIT_NANO_USD
        shown = [f"${format_usd(n)}" if in_usd else f"{n} tokens" for n in (cap.limit, cap.spent, cap.held)]
        table.add_row(cap.scope_id, _PERIOD_WORDS[cap.period], *shown, when(cap.resets_at_ms))
    _console.print(table)
