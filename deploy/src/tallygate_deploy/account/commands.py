"""`tallygate account`: its commands, put together."""

from __future__ import annotations

import typer

from tallygate_deploy.account import billing, cache, keys, projects, spending, webhooks
from tallygate_deploy.account.client import opened

app = typer.Typer(no_args_is_help=True, callback=opened)
app.add_typer(keys.app, name="key")
app.add_typer(projects.app, name="project")
app.add_typer(projects.organization_app, name="organization")
app.add_typer(cache.app, name="cache")
app.add_typer(webhooks.app, name="webhook")
app.add_typer(billing.app, name="billing")
app.add_typer(billing.provider_key_app, name="provider-key")
app.command("alerts")(webhooks.alerts)
app.command("usage")(spending.usage)
app.command("requests")(spending.requests)
app.command("export")(spending.export)
app.command("audit-log")(spending.audit_log)
