"""`tallygate account usage`, `requests`, `export` and `audit-log`: what happened, and what it cost."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tallygate_deploy.account.client import api_of
from tallygate_deploy.account.showing import JsonOption, LimitOption, show, show_all


class Export(StrEnum):
    """What can be exported."""

    REQUESTS = "requests"
    LEDGER = "ledger"
    AUDIT_LOG = "audit-log"


class Format(StrEnum):
    """How an export is written."""

    CSV = "csv"
    JSONL = "jsonl"


FromOption = Annotated[int | None, typer.Option("--from", help="From this Unix time in seconds on.")]
ToOption = Annotated[int | None, typer.Option("--to", help="Up to this Unix time in seconds.")]


def usage(
    context: typer.Context,
    days: Annotated[int, typer.Option(min=1, max=366, help="So many days, today among them.")] = 7,
    group_by: Annotated[
        str,
        typer.Option(help="day, hour, key, project, tag:NAME, model, source, tier or served_mode; two with a comma."),
    ] = "day",
    as_json: JsonOption = False,
) -> None:
    """Requests, tokens, cost and savings, by what they are grouped by."""
    found = api_of(context).get("/usage", {"days": days, "group_by": group_by})
    if as_json:
        show(found, as_json=True)
        return
    rows = [*found["data"], {**dict.fromkeys(found["group_by"], "total"), **found["total"]}]
    columns = [*found["group_by"], "requests", "errors", "input_tokens", "output_tokens", "cost_usd", "saved_usd"]
    show_all(rows, columns, as_json=False)


def requests(
    context: typer.Context,
    model: Annotated[str | None, typer.Option(help="Of this model.")] = None,
    status: Annotated[str | None, typer.Option(help="ok or error.")] = None,
    from_: FromOption = None,
    to: ToOption = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """The log of requests, newest first."""
    params = {"model": model, "status": status, "from": from_, "to": to}
    columns = [
        "id",
        "created_at",
        "model",
        "served_mode",
        "status",
        "error_code",
        "cost_usd",
        "latency_ms",
        "receipt_id",
    ]
    show_all(api_of(context).pages("/requests", params, at_most=limit), columns, as_json=as_json)


def export(
    context: typer.Context,
    what: Export,
    format: Annotated[Format, typer.Option()] = Format.CSV,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file; standard output if none.")] = None,
    from_: FromOption = None,
    to: ToOption = None,
) -> None:
    """All requests, all movements of money, or the audit log. The last line has their number and SHA-256."""
    api_of(context).save(f"/exports/{what.value}", {"format": format.value, "from": from_, "to": to}, output)


def audit_log(
    context: typer.Context,
    action: Annotated[str | None, typer.Option(help='Such as "key.created".')] = None,
    subject: Annotated[str | None, typer.Option(help="The id of what was changed.")] = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """Who changed what, newest first."""
    found = api_of(context).pages("/audit-log", {"action": action, "subject": subject}, at_most=limit)
    show_all(found, ["id", "created_at", "actor", "action", "subject"], as_json=as_json)
