"""`tallygate account cache`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from tallygate_deploy.account.client import Json, api_of
from tallygate_deploy.account.showing import JsonOption, show, show_all

app = typer.Typer(no_args_is_help=True, help="How requests use the cache, what it saved, and forgetting answers.")


class OnOff(StrEnum):
    """Whether requests use the cache that don't say."""

    ON = "on"
    OFF = "off"
    INHERIT = "inherit"


class Tier(StrEnum):
    """The last tier that may answer."""

    EXACT = "exact"
    CANONICAL = "canonical"
    SEMANTIC = "semantic"
    INHERIT = "inherit"


class YesNo(StrEnum):
    """Yes, no, or whatever whoever stands above says."""

    YES = "yes"
    NO = "no"
    INHERIT = "inherit"


class Group(StrEnum):
    """What statistics are grouped by."""

    PROJECT = "project"
    MODEL = "model"


OfOption = Annotated[str, typer.Option("--of", help="A key (key_...) or project (prj_...); else the organisation.")]
_INHERIT = 'or "inherit": as whoever stands above has it.'
_YES_NO: dict[YesNo, bool | None] = {YesNo.YES: True, YesNo.NO: False, YesNo.INHERIT: None}


def _path_of(subject: str) -> str:
    if not subject:
        return "/organization/cache"
    kind = {"key": "keys", "prj": "projects"}.get(subject.partition("_")[0])
    if kind is None:
        raise typer.BadParameter(f"{subject} is neither a key (key_...) nor a project (prj_...)", param_hint="--of")
    return f"/{kind}/{subject}/cache"


@app.command("show")
def show_policy(context: typer.Context, of: OfOption = "", as_json: JsonOption = False) -> None:
    """The cache policy of the organisation, of a project or of a key, and what is in force."""
    show(api_of(context).get(_path_of(of)), as_json=as_json)


@app.command("set")
def set_policy(
    context: typer.Context,
    of: OfOption = "",
    default: Annotated[OnOff | None, typer.Option(help="Whether requests use it that don't say, " + _INHERIT)] = None,
    up_to: Annotated[Tier | None, typer.Option(help="The last tier that may answer, " + _INHERIT)] = None,
    max_error: Annotated[
        str | None, typer.Option(help='Semantic replays that may be wrong, such as "0.01", ' + _INHERIT)
    ] = None,
    ttl: Annotated[str | None, typer.Option(help="Seconds that answers are kept and replayed, " + _INHERIT)] = None,
    sampled: Annotated[YesNo | None, typer.Option(help="Replay sampled requests too, " + _INHERIT)] = None,
    share: Annotated[YesNo | None, typer.Option(help="Projects replay each other's answers.")] = None,
    record: Annotated[YesNo | None, typer.Option(help="Record requests, to measure tiers.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Change it; what is not given stays."""
    words: dict[str, Any] = {"default": default, "up_to": up_to, "max_error": max_error, "ttl_s": ttl}
    body: Json = {name: None if word == "inherit" else word for name, word in words.items() if word is not None}
    if body.get("ttl_s"):
        if not str(ttl).isdigit():
            raise typer.BadParameter(f"{ttl} is no number of seconds", param_hint="--ttl")
        body["ttl_s"] = int(str(ttl))
    flags = {"allow_sampled": sampled, "share_in_org": share, "record_requests": record}
    body |= {name: _YES_NO[word] for name, word in flags.items() if word is not None}
    if not body:
        raise typer.BadParameter("say what is to change")
    show(api_of(context).patch(_path_of(of), body), as_json=as_json)


@app.command("purge")
def purge(
    context: typer.Context,
    project: Annotated[str | None, typer.Option(help="Only answers to this project.")] = None,
    model: Annotated[str | None, typer.Option(help="Only answers of this model.")] = None,
    key_prefix: Annotated[
        str | None, typer.Option(help="Only answers whose `key` in Cache-Status begins so, 8 hex digits or more.")
    ] = None,
    whole: Annotated[bool, typer.Option("--all", help="All answers of the organisation.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Forget answers."""
    given = {"project_id": project, "model": model, "key_prefix": key_prefix}
    body = {name: value for name, value in given.items() if value is not None}
    if len(body) + whole != 1:
        raise typer.BadParameter("say one of --project, --model, --key-prefix and --all")
    show(api_of(context).post("/cache/purge", body), as_json=as_json)


@app.command("stats")
def stats(
    context: typer.Context,
    days: Annotated[int, typer.Option(min=1, max=366, help="So many days, today among them.")] = 7,
    group_by: Annotated[Group, typer.Option(help="What to group by.")] = Group.MODEL,
    as_json: JsonOption = False,
) -> None:
    """Hit rate and savings, as the receipts have them, and what the cache holds."""
    found = api_of(context).get("/cache/stats", {"days": days, "group_by": group_by.value})
    if as_json:
        show(found, as_json=True)
        return
    rows = [*found["data"], {group_by.value: "total", **found["total"]}]
    columns = ["requests", "replays", "hit_rate", "cost_usd", "saved_usd", "entries", "bytes", "evictions"]
    show_all(rows, [group_by.value, *columns], as_json=False)
