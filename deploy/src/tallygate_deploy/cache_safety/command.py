"""`tallygate cache-safety`: judges the cache's tiers, or any endpoint, and ends with one line of JSON each."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from meshkit.errors import MeshError
from meshkit.logs import configure_logging
from tallygate_deploy.account.client import DEFAULT_URL
from tallygate_deploy.cache_safety import log_command
from tallygate_deploy.cache_safety.log_reader import LogError
from tallygate_deploy.cache_safety.options import Options, Target, read_cost, read_headers
from tallygate_deploy.cache_safety.reading import DataError

OVER_BUDGET, UNUSABLE = 1, 2
DEFAULT_BUDGET = 0.01
DEFAULT_COST_USD = "0.002"

DataArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="[DATA.jsonl]",
        exists=True,
        dir_okay=False,
        help="Your own items, one JSON object a line. Without: made by rules, and the data of fow-cache.",
    ),
]
TierOption = Annotated[
    list[str] | None, typer.Option(help="exact, canonical or semantic; repeatable. All three if not given.")
]
BudgetOption = Annotated[
    float,
    typer.Option(min=0.000001, max=1, help="The share of replays that may be wrong; also the semantic tier's bound."),
]
ReportOption = Annotated[Path | None, typer.Option(dir_okay=False, help="Write an HTML file with charts here.")]
AgainstOption = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Judge whatever answers here, such as http://127.0.0.1:8080/v1, not the tiers."),
]
ApiKeyOption = Annotated[
    str, typer.Option(envvar="TALLYGATE_CACHE_SAFETY_API_KEY", help="With --against: the key to ask with.")
]
OtherApiKeyOption = Annotated[
    str,
    typer.Option(envvar="TALLYGATE_CACHE_SAFETY_OTHER_API_KEY", help="With --against: the key of another tenant."),
]
ModelOption = Annotated[str, typer.Option(help="With --against: the model to ask.")]
OtherModelOption = Annotated[
    str, typer.Option(help="With --against: another model, to see that the two are told apart.")
]
HeaderOption = Annotated[
    list[str] | None, typer.Option(metavar="NAME:VALUE", help="With --against: sent with each request; repeatable.")
]
LimitOption = Annotated[
    int | None,
    typer.Option(min=1, help="Judge so many items at most, of each category alike. 400 with --against, else all."),
]
AtOnceOption = Annotated[int, typer.Option(min=1, max=64, help="With --against: requests under way at the same time.")]
CostOption = Annotated[str, typer.Option(help="What a fresh answer costs, in dollars, where an item does not say.")]


def command(
    data: DataArgument = None,
    tier: TierOption = None,
    budget: BudgetOption = DEFAULT_BUDGET,
    report: ReportOption = None,
    against: AgainstOption = None,
    api_key: ApiKeyOption = "",
    other_api_key: OtherApiKeyOption = "",
    model: ModelOption = "",
    other_model: OtherModelOption = "",
    header: HeaderOption = None,
    limit: LimitOption = None,
    at_once: AtOnceOption = 4,
    cost_usd: CostOption = DEFAULT_COST_USD,
    from_log: log_command.FromLogOption = False,
    file: log_command.FileOption = None,
    base_url: log_command.BaseUrlOption = DEFAULT_URL,
    account_key: log_command.AccountKeyOption = "",
    days: log_command.DaysOption = None,
    show: log_command.ShowOption = 20,
) -> None:
    """How often a cache replays an answer that it may, and how often one that it must not.

    An item is a request that was answered, another one, and whether that answer may be replayed for it. Each tier of
    the cache is judged in this process; or, with --against, whatever answers at a URL, which is sent two requests an
    item and may charge for them. What the items are and how the figures are computed: deploy/docs/cache-safety.md.

    With --from-log your organisation's own recorded requests are lived through with each tier: what it would have
    saved, and where a replay would not have said what was answered. See deploy/docs/cache-recording.md.

    Ends with one line of JSON a tier; with 0, with 1 where more replays were wrong than the budget has room for, with 2
    where nothing could be judged.
    """
    if from_log:
        if against or report:
            _fail("--from-log goes with neither --against nor --report")
        source = log_command.LogSource(file or data, base_url, account_key or api_key, days)
        _say_what_was_saved(source, tuple(tier or ()), budget, show)
        return
    try:
        # Imported here: other commands need not wait for scipy and the cache, nor have them.
        from tallygate_deploy.cache_safety import runs  # noqa: PLC0415
    except ModuleNotFoundError as error:
        _fail(f"{error}; the bench needs `pip install tallygate[cache-safety]`")
    configure_logging("tallygate-cli", level="error")
    try:
        target = against and Target(against, api_key, model, other_api_key, other_model, read_headers(header), at_once)
        options = Options(budget, read_cost(cost_usd), data, tuple(tier or ()), limit, target or None)
        result = asyncio.run(runs.run(options))
        result.tell()
        if report:
            report.write_text(result.html(), encoding="utf-8")
            typer.echo(f"the report is {report}", err=True)
    except (DataError, runs.EndpointError, MeshError, OSError) as error:
        _fail(str(error))
    if not any(score.n for score in result.scores):
        _fail("nothing could be judged; the notes above say why")
    if any(score.over_budget for score in result.scores):
        raise typer.Exit(OVER_BUDGET)


def _say_what_was_saved(source: log_command.LogSource, tiers: tuple[str, ...], max_error: float, show: int) -> None:
    configure_logging("tallygate-cli", level="error")
    try:
        log_command.run(source, tiers, max_error=max_error, show=show)
    except ModuleNotFoundError as error:
        _fail(f"{error}; this needs `pip install tallygate[cache-safety]`")
    except (LogError, MeshError, OSError) as error:
        _fail(str(error))


def _fail(why: str) -> NoReturn:
    typer.echo(f"tallygate: {why}", err=True)
    raise typer.Exit(UNUSABLE)
