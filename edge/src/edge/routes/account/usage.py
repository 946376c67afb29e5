"""``/usage``: what was used, in sums."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from edge.account import Account
from edge.auth import Authenticator
from edge.errors import invalid
from edge.routes.account.guard import CallerOf, account_router
from edge.wire.account.usage import UsageReport, dimensions_of
from meshkit.clock import Clock
from tallygate.ledger.v1 import usage_pb2

MAX_DAYS = 366
DEFAULT_DAYS = 7
DAY_S = 86_400
MAX_TIME_S = 2**43
"""The milliseconds of it are whole numbers in JSON."""

From = Annotated[
    int | None, Query(alias="from", ge=0, le=MAX_TIME_S, description="From this on, Unix time in seconds.")
]
To = Annotated[int | None, Query(ge=0, le=MAX_TIME_S, description="Before this, Unix time in seconds.")]
Days = Annotated[
    int | None,
    Query(ge=1, le=MAX_DAYS, description="So many days of UTC, today among them. Not beside `from` and `to`."),
]
Name = Annotated[str, Query(max_length=200)]
GroupBy = Annotated[
    list[str],
    Query(
        description="One or two of day, hour, key, project, model, source, tier, served_mode and tag:NAME, with a "
        "comma between or as two parameters. Without it: only the total.",
        examples=["day,model"],
    ),
]


def usage_router(account: Account, authenticator: Authenticator, clock: Clock) -> APIRouter:
    """The resource."""
    router = account_router(authenticator, "Usage")

    @router.get("/usage", summary="Sum up usage")
    async def get_usage(
        caller: CallerOf,
        days: Days = None,
        from_: From = None,
        to: To = None,
        group_by: GroupBy = [],  # noqa: B006 - FastAPI copies it
        project_id: Name = "",
        key_id: Name = "",
        model: Name = "",
    ) -> UsageReport:
        """Requests, tokens, cost, savings, errors and latencies of a time, in whole hours. It equals the receipts at
        the moment of the answer.
        """
        names = [name for part in group_by for name in part.split(",") if name]
        dimensions, tag_key = dimensions_of(names)
        from_s, to_s = _time_of(days, from_, to, clock.now_ms() // 1_000)
        request = usage_pb2.QueryUsageRequest(
            org_id=caller.org_id,
            from_ms=from_s * 1_000,
            to_ms=to_s * 1_000,
            group_by=dimensions,
            tag_key=tag_key,
            project_id=project_id,
            key_id=key_id,
            model=model,
        )
        return UsageReport.of(names, await account.ask(account.usage.QueryUsage, request))

    return router


def _time_of(days: int | None, from_s: int | None, to_s: int | None, now_s: int) -> tuple[int, int]:
    """From when until when, Unix seconds."""
    if days is not None and (from_s is not None or to_s is not None):
        raise invalid("Send `days`, or `from` and `to`, not both.", "days")
    if from_s is None:
        if to_s is not None:
            raise invalid("`to` needs `from`.", "from")
        return now_s - now_s % DAY_S - ((days or DEFAULT_DAYS) - 1) * DAY_S, now_s + 1
    to_s = now_s + 1 if to_s is None else to_s
    if not from_s < to_s <= from_s + MAX_DAYS * DAY_S:
        raise invalid(f"`to` must be after `from`, by {MAX_DAYS} days at most.", "to")
    return from_s, to_s
