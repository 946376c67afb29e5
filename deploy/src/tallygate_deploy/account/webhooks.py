"""`tallygate account webhook` and `tallygate account alerts`."""

from __future__ import annotations

from typing import Annotated

import typer

from tallygate_deploy.account.client import api_of
from tallygate_deploy.account.showing import JsonOption, LimitOption, show, show_all

app = typer.Typer(no_args_is_help=True, help="Webhooks: where events are sent.")


@app.command("list")
def list_webhooks(context: typer.Context, limit: LimitOption = 100, as_json: JsonOption = False) -> None:
    """All webhooks."""
    columns = ["id", "url", "events", "enabled", "created_at"]
    show_all(api_of(context).pages("/webhooks", at_most=limit), columns, as_json=as_json)


@app.command("create")
def create_webhook(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="https://...")],
    event: Annotated[
        list[str] | None, typer.Option("--event", help="A type of event; repeatable; all if none.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a webhook. The secret that its signatures are made with is shown once."""
    show(api_of(context).post("/webhooks", {"url": url, "events": event or ["*"]}), as_json=as_json)


@app.command("delete")
def delete_webhook(context: typer.Context, webhook_id: str, as_json: JsonOption = False) -> None:
    """End a webhook; what waits for it is not sent any more."""
    show(api_of(context).delete(f"/webhooks/{webhook_id}"), as_json=as_json)


@app.command("rotate-secret")
def rotate_secret(
    context: typer.Context,
    webhook_id: str,
    overlap_s: Annotated[int, typer.Option(min=0, help="Seconds for which both secrets sign.")] = 86_400,
    as_json: JsonOption = False,
) -> None:
    """Give a webhook a new secret, shown once."""
    show(api_of(context).post(f"/webhooks/{webhook_id}/rotate-secret", {"overlap_s": overlap_s}), as_json=as_json)


@app.command("test")
def test_webhook(context: typer.Context, webhook_id: str, as_json: JsonOption = False) -> None:
    """Send it an event that says nothing."""
    show(api_of(context).post(f"/webhooks/{webhook_id}/test"), as_json=as_json)


@app.command("deliveries")
def deliveries(context: typer.Context, webhook_id: str, limit: LimitOption = 50, as_json: JsonOption = False) -> None:
    """What was sent to it, and what became of that."""
    found = api_of(context).pages(f"/webhooks/{webhook_id}/deliveries", at_most=limit)
    columns = ["id", "event", "state", "attempts", "last_status", "last_error", "created_at"]
    show_all(found, columns, as_json=as_json)


def alerts(context: typer.Context, limit: LimitOption = 50, as_json: JsonOption = False) -> None:
    """Which caps came to 50, 80 or 100%, newest first."""
    found = api_of(context).pages("/alerts", at_most=limit)
    columns = ["scope", "scope_id", "period", "threshold_percent", "cap_usd", "spent_usd", "created_at"]
    show_all(found, columns, as_json=as_json)
