"""How the commands of an account show what the API answered: tables for people, JSON for programs."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from tallygate_deploy.account.client import Json

_console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)  # a pipe has no width: wrap nothing

JsonOption = Annotated[bool, typer.Option("--json", help="As JSON, as the API answered.")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, max=100_000, help="At most so many.")]


def show(item: Json, *, as_json: bool) -> None:
    """One thing: a line for each of its fields."""
    if as_json:
        typer.echo(json.dumps(item, indent=2, ensure_ascii=False))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in item.items():
        if name != "object":
            table.add_row(name, cell(name, value))
    _console.print(table)


def show_all(items: Iterable[Json], columns: Sequence[str], *, as_json: bool) -> None:
    """A list: a line for each item, with these of its fields; as JSON, an object on each line."""
    if as_json:
        for item in items:
            typer.echo(json.dumps(item, ensure_ascii=False))
        return
    table = Table(*columns)
    for item in items:
        table.add_row(*(cell(name, item.get(name)) for name in columns))
    _console.print(table)


def cell(name: str, value: Any) -> str:
    """A value for people; a field that ends in ``_at`` is a time."""
    if value is None or value == []:
        return "-"
    if name.endswith("_at") and isinstance(value, int):
        return dt.datetime.fromtimestamp(value, dt.UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key}={cell(key, inner)}" for key, inner in value.items())
    return str(value)
