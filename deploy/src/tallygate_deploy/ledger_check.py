"""`tallygate ledger check`: every invariant of the ledger, on any database, without writing to it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ledger_svc.domain.signing import PublicKeys
from meshkit.clock import SystemClock
from tallygate_deploy.data_dir import DataDirError
from tallygate_deploy.key_trust import pinned_by_jwks, pinned_by_text
from tallygate_deploy.ledger_client import DEFAULT_DATA, DataOption
from tallygate_deploy.local_parts import LocalPartError

if TYPE_CHECKING:
    from ledger_svc.store.check import Ruling

app = typer.Typer(no_args_is_help=True, help="The ledger's books.")

BROKEN, UNREADABLE = 1, 2
DEFAULT_GRACE_S = 10.0
"""A sweep comes every 2 s and takes a part of what is due; a machine that is busy may need more."""


DatabaseOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Check this one, not a data folder: sqlite:////PATH or postgresql://USER:PASSWORD@HOST/DATABASE.",
    ),
]
AtRestOption = Annotated[
    bool,
    typer.Option(
        "--at-rest",
        help="With --database: no ledger runs on it, so that nobody ends holds past their time. Of a data folder it is "
        "known.",
    ),
]
GraceOption = Annotated[
    float, typer.Option(min=0, help="Seconds that a hold may be open past its time, until a sweep comes.")
]
JwksOption = Annotated[
    Path | None,
    typer.Option(
        exists=True, dir_okay=False, help="Verify signatures with the keys of this file, not those of the folder."
    ),
]
KeyOption = Annotated[list[str] | None, typer.Option(metavar="KID=X", help="As --jwks; X as there; repeatable.")]


@app.callback()  # a group of one command needs it, or typer makes the command the group
def _group() -> None:
    """The ledger's books."""


@app.command("check")
def command(
    data: DataOption = DEFAULT_DATA,
    database: DatabaseOption = None,
    at_rest: AtRestOption = False,
    grace_s: GraceOption = DEFAULT_GRACE_S,
    jwks: JwksOption = None,
    key: KeyOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object in place of lines.")] = False,
) -> None:
    """Check every invariant of the ledger, read-only, also while it runs.

    Prints for each rule how many rows it was held against, and the first that breaks it. Ends with 0 where all hold,
    with 1 where one is broken, with 2 where the database can't be read.

    The rules: the postings of a transfer sum to 0; balances chain and add up; reserved is what open holds keep; nobody
    is below the floor; a hold is settled once, and has a receipt if it was; a receipt says what was posted, and charges
    what its usage costs at its price; the log, rebuilt from the receipts, has the roots that its checkpoints say; all
    signatures are the log's (its keys are those of the data folder, or given); a provider key is sealed under its
    organisation's data key, or erased; no hold is open past its time and a sweep.
    """
    try:
        keys = _pinned(jwks, key)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    from tallygate_deploy import ledger_inspection as inspection  # noqa: PLC0415 - the database drivers: a second

    tell = (lambda _: None) if as_json else _print

    async def run() -> tuple[str, list[Ruling]]:
        async with inspection.subject(data, database, swept=not at_rest, pinned=keys) as subject:
            rulings = await inspection.check(subject, now_ms=SystemClock().now_ms(), grace_s=grace_s, tell=tell)
            return inspection.shown(subject.url), rulings

    try:
        url, rulings = asyncio.run(run())
    except (inspection.UnreadableError, DataDirError, LocalPartError) as error:
        typer.echo(f"tallygate: {error}", err=True)
        raise typer.Exit(UNREADABLE) from None
    broken = sum(not ruling.holds for ruling in rulings)
    left_out = sum(bool(ruling.left_out) for ruling in rulings)
    if as_json:
        typer.echo(json.dumps(inspection.document(url, rulings), ensure_ascii=False))
    else:
        typer.echo(f"{url}: {len(rulings) - broken - left_out} rules hold, {broken} are broken, {left_out} left out")
    if broken:
        raise typer.Exit(BROKEN)


def _print(ruling: Ruling) -> None:
    if ruling.left_out:
        typer.echo(f"left out {ruling.rule}: {ruling.left_out}")
    elif ruling.holds:
        typer.echo(f"ok       {ruling.rule}: {ruling.checked:,} of {ruling.table}")
    else:
        first, *more = ruling.breaks
        typer.echo(f"BROKEN   {ruling.rule}: first at {first.where}: {first.detail}")
        for violation in more:
            typer.echo(f"         and at {violation.where}: {violation.detail}")


def _pinned(jwks: Path | None, keys: list[str] | None) -> PublicKeys | None:
    if jwks and keys:
        raise ValueError("give --jwks or --key, not both")
    if jwks:
        return pinned_by_jwks(jwks).keys
    return pinned_by_text(keys).keys if keys else None
