"""`tallygate account key`."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Annotated

import typer

from tallygate_deploy.account.caps import ClearOption, DailyOption, MonthlyOption, change_of
from tallygate_deploy.account.client import Json, api_of
from tallygate_deploy.account.showing import JsonOption, LimitOption, show, show_all

app = typer.Typer(no_args_is_help=True, help="API keys: what they may do, and what they may spend.")


class Scope(StrEnum):
    """What a key is for."""

    INFERENCE = "inference"
    ACCOUNT = "account"


class Region(StrEnum):
    """Where its requests may be answered."""

    ANY = "any"
    CN_ONLY = "cn-only"
    OVERSEAS_ONLY = "overseas-only"


class Cache(StrEnum):
    """What it does with the cache where a request does not say."""

    ON = "on"
    OFF = "off"


ModelOption = Annotated[list[str] | None, typer.Option("--model", help="A model or glob that it may use; repeatable.")]
CidrOption = Annotated[
    list[str] | None, typer.Option("--allow-cidr", help="An address or network that it may be used from; repeatable.")
]
RegionOption = Annotated[Region | None, typer.Option(help="Where its requests may be answered.")]
CacheOption = Annotated[Cache | None, typer.Option(help="Whether it replays and stores by default.")]
RequestsOption = Annotated[int | None, typer.Option("--requests-per-minute", min=0, help="0: no limit.")]
TokensOption = Annotated[int | None, typer.Option("--tokens-per-minute", min=0, help="0: no limit.")]
ExpiryOption = Annotated[float | None, typer.Option("--expires-in-days", min=0.0001, max=36_500)]


def _policy(
    model: list[str] | None,
    allow_cidr: list[str] | None,
    region: Region | None,
    cache: Cache | None,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    expires_in_days: float | None,
) -> Json:
    given = {
        "allowed_models": model or None,
        "allowed_cidrs": allow_cidr or None,
        "region": region.value if region else None,
        "cache_default": cache.value if cache else None,
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "expires_at": round(time.time() + expires_in_days * 86_400) if expires_in_days else None,
    }
    return {name: value for name, value in given.items() if value is not None}


@app.command("list")
def list_keys(context: typer.Context, limit: LimitOption = 100, as_json: JsonOption = False) -> None:
    """All keys, newest first, without secrets."""
    columns = ["id", "name", "prefix", "project_id", "scope", "status", "created_at", "expires_at"]
    show_all(api_of(context).pages("/keys", at_most=limit), columns, as_json=as_json)


@app.command("show")
def show_key(context: typer.Context, key_id: str, as_json: JsonOption = False) -> None:
    """One key."""
    show(api_of(context).get(f"/keys/{key_id}"), as_json=as_json)


@app.command("create")
def create_key(
    context: typer.Context,
    name: str,
    project: Annotated[str, typer.Option(help="prj_...")],
    scope: Annotated[Scope, typer.Option(help="What it is for.")] = Scope.INFERENCE,
    read_only: Annotated[bool, typer.Option("--read-only", help="It changes and spends nothing.")] = False,
    model: ModelOption = None,
    allow_cidr: CidrOption = None,
    region: RegionOption = None,
    cache: CacheOption = None,
    requests_per_minute: RequestsOption = None,
    tokens_per_minute: TokensOption = None,
    expires_in_days: ExpiryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key. Its secret is shown once."""
    body: Json = {"name": name, "project_id": project, "scope": scope.value, "read_only": read_only}
    body |= _policy(model, allow_cidr, region, cache, requests_per_minute, tokens_per_minute, expires_in_days)
    show(api_of(context).post("/keys", body), as_json=as_json)


@app.command("update")
def update_key(
    context: typer.Context,
    key_id: str,
    name: Annotated[str | None, typer.Option(help="Another name.")] = None,
    model: ModelOption = None,
    allow_cidr: CidrOption = None,
    region: RegionOption = None,
    cache: CacheOption = None,
    requests_per_minute: RequestsOption = None,
    tokens_per_minute: TokensOption = None,
    expires_in_days: ExpiryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change what a key may do; what is not given stays."""
    body = _policy(model, allow_cidr, region, cache, requests_per_minute, tokens_per_minute, expires_in_days)
    if name is not None:
        body["name"] = name
    if not body:
        raise typer.BadParameter("say what is to change")
    show(api_of(context).patch(f"/keys/{key_id}", body), as_json=as_json)


@app.command("rotate")
def rotate_key(
    context: typer.Context,
    key_id: str,
    overlap_s: Annotated[int, typer.Option(min=0, help="Seconds for which the old secret works on.")] = 86_400,
    as_json: JsonOption = False,
) -> None:
    """Give a key a new secret, shown once; the old one works on for a while."""
    show(api_of(context).post(f"/keys/{key_id}/rotate", {"overlap_s": overlap_s}), as_json=as_json)


@app.command("revoke")
def revoke_key(context: typer.Context, key_id: str, as_json: JsonOption = False) -> None:
    """End a key at once."""
    show(api_of(context).delete(f"/keys/{key_id}"), as_json=as_json)


@app.command("spend-cap")
def spend_cap(
    context: typer.Context,
    key_id: str,
    monthly: MonthlyOption = None,
    daily: DailyOption = None,
    clear: ClearOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a key may spend, or change it."""
    change, api, path = change_of(monthly, daily, clear=clear), api_of(context), f"/keys/{key_id}/spend-cap"
    show(api.patch(path, change) if change else api.get(path), as_json=as_json)


@app.command("alert-webhook")
def alert_webhook(
    context: typer.Context,
    key_id: str,
    url: Annotated[str | None, typer.Option(help="Where its alerts are sent, https://...")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Send none any more.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show where a key's alerts go, or change it."""
    api, path = api_of(context), f"/keys/{key_id}/alert-webhook"
    if clear or url:
        show(api.patch(path, {"clear": True} if clear else {"url": url}), as_json=as_json)
    else:
        show(api.get(path), as_json=as_json)
