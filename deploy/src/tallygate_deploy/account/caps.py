"""What the commands about spend caps have in common, whosever they are."""

from __future__ import annotations

from typing import Annotated

import typer

from tallygate_deploy.account.client import Json

MonthlyOption = Annotated[str | None, typer.Option("--monthly", help='USD in a month of UTC, such as "100.00".')]
DailyOption = Annotated[str | None, typer.Option("--daily", help='USD in a day of UTC, such as "5.00".')]
ClearOption = Annotated[bool, typer.Option("--clear", help="Take both caps away.")]


def change_of(monthly: str | None, daily: str | None, *, clear: bool) -> Json | None:
    """The body of the change; None: nothing is changed, the caps are only shown."""
    if clear:
        return {"clear": True}
    given = {"monthly_spend_cap_usd": monthly, "daily_spend_cap_usd": daily}
    return {name: value for name, value in given.items() if value is not None} or None
