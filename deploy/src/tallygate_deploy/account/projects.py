"""`tallygate account project` and `tallygate account organization`."""

from __future__ import annotations

import typer

from tallygate_deploy.account.caps import ClearOption, DailyOption, MonthlyOption, change_of
from tallygate_deploy.account.client import api_of
from tallygate_deploy.account.showing import JsonOption, LimitOption, show, show_all

app = typer.Typer(no_args_is_help=True, help="Projects, and what each may spend.")
organization_app = typer.Typer(no_args_is_help=True, help="The organisation, and what it may spend.")


@app.command("list")
def list_projects(context: typer.Context, limit: LimitOption = 100, as_json: JsonOption = False) -> None:
    """All projects, oldest first."""
    found = api_of(context).pages("/projects", at_most=limit)
    show_all(found, ["id", "name", "created_at"], as_json=as_json)


@app.command("create")
def create_project(context: typer.Context, name: str, as_json: JsonOption = False) -> None:
    """Make a project."""
    show(api_of(context).post("/projects", {"name": name}), as_json=as_json)


@app.command("rename")
def rename_project(context: typer.Context, project_id: str, name: str, as_json: JsonOption = False) -> None:
    """Give a project another name."""
    show(api_of(context).patch(f"/projects/{project_id}", {"name": name}), as_json=as_json)


@app.command("spend-cap")
def project_spend_cap(
    context: typer.Context,
    project_id: str,
    monthly: MonthlyOption = None,
    daily: DailyOption = None,
    clear: ClearOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a project may spend, or change it."""
    _spend_cap(context, f"/projects/{project_id}/spend-cap", monthly, daily, clear=clear, as_json=as_json)


@organization_app.command("show")
def show_organization(context: typer.Context, as_json: JsonOption = False) -> None:
    """What is known of the organisation."""
    show(api_of(context).get("/organization"), as_json=as_json)


@organization_app.command("spend-cap")
def organization_spend_cap(
    context: typer.Context,
    monthly: MonthlyOption = None,
    daily: DailyOption = None,
    clear: ClearOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show what the organisation may spend, or change it."""
    _spend_cap(context, "/organization/spend-cap", monthly, daily, clear=clear, as_json=as_json)


def _spend_cap(
    context: typer.Context, path: str, monthly: str | None, daily: str | None, *, clear: bool, as_json: bool
) -> None:
    change = change_of(monthly, daily, clear=clear)
    api = api_of(context)
    show(api.patch(path, change) if change else api.get(path), as_json=as_json)
