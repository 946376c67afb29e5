"""`tallygate key`: API keys, over the ledger's own API."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from edge.wire.account.cache import CACHE_DEFAULTS, CacheDefault
from edge.wire.account.keys import REGIONS, SCOPES, Key, Region, Scope
from tallygate.ledger.v1 import account_pb2, account_pb2_grpc, ledger_pb2
from tallygate_deploy.data_dir import DataDir
from tallygate_deploy.ledger_client import (
    DEFAULT_DATA,
    DataOption,
    LedgerOption,
    OrgOption,
    ask,
    ask_service,
    days_from_now_ms,
    tenant_of,
    when,
)

if TYPE_CHECKING:
    from tallygate_deploy.ledger_client import Ledger

    Accounts = account_pb2_grpc.AccountServiceAsyncStub

app = typer.Typer(no_args_is_help=True, help="API keys.")

_console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)  # a pipe has no width: wrap nothing
_MAX_PER_MINUTE = 10**9
_MAX_OVERLAP_HOURS = 30 * 24
_SCOPE_WORDS = {number: word for word, number in SCOPES.items()} | {ledger_pb2.KEY_SCOPE_UNSPECIFIED: Scope.INFERENCE}

KeyArgument = Annotated[str, typer.Argument(help="key_...")]


@app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="A name for people.")],
    scope: Annotated[Scope, typer.Option(help="What it is for: calling models, or managing the account.")] = (
        Scope.INFERENCE
    ),
    read_only: Annotated[bool, typer.Option("--read-only", help="It changes nothing and spends nothing.")] = False,
    model: Annotated[
        list[str] | None, typer.Option("--model", help="A model id or glob that it may use; repeatable.")
    ] = None,
    allow_cidr: Annotated[
        list[str] | None, typer.Option("--allow-cidr", help="An address or network that it may come from; repeatable.")
    ] = None,
    region: Annotated[Region, typer.Option(help="Where its requests may be answered.")] = Region.ANY,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=0, max=_MAX_PER_MINUTE, help="0: no limit; by default the installation's.")
    ] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(min=0, max=_MAX_PER_MINUTE, help="0: no limit; by default the installation's.")
    ] = None,
    cache: Annotated[
        CacheDefault | None,
        typer.Option(help="Whether requests that don't say use the cache; by default as its project has it."),
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
    policy = ledger_pb2.KeyPolicy(
        scope=SCOPES[scope],
        read_only=read_only,
        allowed_cidrs=allow_cidr or [],
        region=REGIONS[region],
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        cache_default=CACHE_DEFAULTS[cache],
    )

    async def question(client: Ledger, folder: DataDir) -> ledger_pb2.CreateKeyResponse:
        tenant = tenant_of(folder, org, project)
        return await client.CreateKey(
            ledger_pb2.CreateKeyRequest(
                org_id=tenant.org_id,
                project_id=tenant.project_id,
                name=name,
                allowed_models=model or [],
                expires_at_ms=days_from_now_ms(expires_in_days),
                policy=policy,
            )
        )

    made = ask(data, ledger, question)
    typer.echo(f"{made.key.key_id} made. Its secret is shown once:", err=True)
    typer.echo(made.secret)


@app.command("list")
def list_keys(org: OrgOption = None, data: DataOption = DEFAULT_DATA, ledger: LedgerOption = None) -> None:
    """All keys, newest first, without secrets."""
    answer = ask(data, ledger, lambda client, _: client.ListKeys(ledger_pb2.ListKeysRequest(org_id=org or "")))
    table = Table(Column("key", no_wrap=True), "name", "scope", "starts with", "models", "made", "state")
    for key in answer.keys:
        scope = _SCOPE_WORDS[key.policy.scope].value + (", only reads" if key.policy.read_only else "")
        models = ", ".join(key.allowed_models) or "any"
        table.add_row(key.key_id, key.name, scope, key.prefix, models, when(key.created_at_ms), _state(key))
    _console.print(table)


@app.command("show")
def show_key(
    key_id: KeyArgument, org: OrgOption = None, data: DataOption = DEFAULT_DATA, ledger: LedgerOption = None
) -> None:
    """One key and what it may do, as JSON, in the form of GET /v1/keys/{id}."""
    request = account_pb2.GetKeyRequest(org_id=org or "", key_id=key_id)
    found = ask_service(data, ledger, account_pb2_grpc.AccountServiceStub, lambda client, _: client.GetKey(request))
    shown: dict[str, Any] = Key.of(found.key).model_dump(mode="json")
    typer.echo(json.dumps(shown, indent=2, ensure_ascii=False))


@app.command("rotate")
def rotate_key(
    key_id: KeyArgument,
    overlap_hours: Annotated[
        float,
        typer.Option(min=0, max=_MAX_OVERLAP_HOURS, help="The former secret is valid for so long; 0: it ends at once."),
    ] = 24.0,
    org: OrgOption = None,
    data: DataOption = DEFAULT_DATA,
    ledger: LedgerOption = None,
) -> None:
    """Give a key a new secret, which is printed once, on the last line. Its caps and its usage stay."""
    request = account_pb2.RotateKeyRequest(org_id=org or "", key_id=key_id, overlap_ms=round(overlap_hours * 3_600_000))
    made = ask_service(data, ledger, account_pb2_grpc.AccountServiceStub, lambda client, _: client.RotateKey(request))
    ends = f"ends {when(made.former_secret_expires_at_ms)}" if request.overlap_ms else "has ended"
    typer.echo(f"{key_id} has a new secret; the former one {ends}. It is shown once:", err=True)
    typer.echo(made.secret)


@app.command("revoke")
def revoke_key(
    key_id: KeyArgument,
    org: OrgOption = None,
    data: DataOption = DEFAULT_DATA,
    ledger: LedgerOption = None,
) -> None:
    """End a key at once."""
    request = ledger_pb2.RevokeKeyRequest(key_id=key_id, org_id=org or "")
    ended = ask(data, ledger, lambda client, _: client.RevokeKey(request))
    typer.echo(f"{ended.key.key_id} revoked {when(ended.key.revoked_at_ms)}")


def _state(key: ledger_pb2.Key) -> str:
    if key.revoked_at_ms:
        return f"revoked {when(key.revoked_at_ms)}"
    if key.status == ledger_pb2.KEY_STATUS_EXPIRED:
        return f"expired {when(key.expires_at_ms)}"
    return f"until {when(key.expires_at_ms)}" if key.expires_at_ms else "active"
