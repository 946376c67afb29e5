"""`tallygate account billing` and `tallygate account provider-key`."""

from __future__ import annotations

from typing import Annotated

import typer

from meshkit.ids import new_id
from tallygate_deploy.account.client import api_of
from tallygate_deploy.account.showing import JsonOption, LimitOption, show, show_all

app = typer.Typer(no_args_is_help=True, help="Balance, plan, payments.")
provider_key_app = typer.Typer(no_args_is_help=True, help="Keys of your own at model sources.")


@app.command("balance")
def balance(context: typer.Context, as_json: JsonOption = False) -> None:
    """What there is, and what of it is held."""
    show(api_of(context).get("/billing/balance"), as_json=as_json)


@app.command("plan")
def plan(context: typer.Context, as_json: JsonOption = False) -> None:
    """What each tier costs."""
    show(api_of(context).get("/billing/plan"), as_json=as_json)


@app.command("upgrade-hint")
def upgrade_hint(context: typer.Context, as_json: JsonOption = False) -> None:
    """What the usage of the last days would have cost in another tier."""
    show(api_of(context).get("/billing/upgrade-hint"), as_json=as_json)


@app.command("topup")
def topup(
    context: typer.Context,
    amount_usd: Annotated[str, typer.Argument(help='Such as "20.00".')],
    idempotency_key: Annotated[str | None, typer.Option(help="Sent twice under one name, it is one payment.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Begin a payment; it is made at the address that is shown."""
    body = {"amount_usd": amount_usd, "idempotency_key": idempotency_key or new_id("topup")}
    show(api_of(context).post("/billing/topup", body), as_json=as_json)


@app.command("payments")
def payments(context: typer.Context, limit: LimitOption = 50, as_json: JsonOption = False) -> None:
    """All payments, newest first."""
    columns = ["id", "status", "amount_usd", "created_at"]
    show_all(api_of(context).pages("/billing/payments", at_most=limit), columns, as_json=as_json)


@provider_key_app.command("list")
def list_provider_keys(context: typer.Context, limit: LimitOption = 100, as_json: JsonOption = False) -> None:
    """All of them, without secrets."""
    columns = ["id", "source", "name", "hint", "status", "created_at", "rotated_at"]
    show_all(api_of(context).pages("/provider-keys", at_most=limit), columns, as_json=as_json)


@provider_key_app.command("add")
def add_provider_key(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="The source, such as openai.")],
    name: Annotated[str, typer.Option(help="A name for people.")] = "default",
    secret: Annotated[
        str,
        typer.Option(prompt=True, hide_input=True, envvar="TALLYGATE_PROVIDER_SECRET", help="Asked for if not given."),
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Use a key of your own at a source. It is stored encrypted and never shown again."""
    body = {"source": source, "name": name, "secret": secret}
    show(api_of(context).post("/provider-keys", body), as_json=as_json)


@provider_key_app.command("rotate")
def rotate_provider_key(
    context: typer.Context,
    provider_key_id: str,
    secret: Annotated[
        str,
        typer.Option(prompt=True, hide_input=True, envvar="TALLYGATE_PROVIDER_SECRET", help="Asked for if not given."),
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Put another secret in its place."""
    show(api_of(context).post(f"/provider-keys/{provider_key_id}/rotate", {"secret": secret}), as_json=as_json)


@provider_key_app.command("revoke")
def revoke_provider_key(context: typer.Context, provider_key_id: str, as_json: JsonOption = False) -> None:
    """Use it no more."""
    show(api_of(context).delete(f"/provider-keys/{provider_key_id}"), as_json=as_json)
