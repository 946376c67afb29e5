"""`tallygate cache-safety --from-log`: where the log comes from, and how what each tier would have saved is told."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from meshkit.money import format_usd
from tallygate_deploy.account.client import DEFAULT_URL, Api
from tallygate_deploy.cache_safety.log_reader import LogError, Recorded, read_log

if TYPE_CHECKING:
    from tallygate_deploy.cache_safety.from_log import TierReport

_MS_PER_DAY = 86_400_000
_SHOWN_REASONS = 5

FromLogOption = Annotated[
    bool,
    typer.Option("--from-log", help="Say what each tier would have saved of your own recorded requests."),
]
FileOption = Annotated[
    Path | None,
    typer.Option(
        exists=True, dir_okay=False, help="With --from-log: read this export of recorded requests, not a gateway's."
    ),
]
BaseUrlOption = Annotated[
    str,
    typer.Option(envvar="TALLYGATE_URL", help="With --from-log: the gateway that recorded, with its /v1."),
]
AccountKeyOption = Annotated[
    str, typer.Option(envvar="TALLYGATE_ACCOUNT_KEY", help="With --from-log: an account key of the organisation.")
]
DaysOption = Annotated[
    int | None, typer.Option(min=1, max=366, help="With --from-log: only requests of so many days. All if not given.")
]
ShowOption = Annotated[
    int, typer.Option(min=0, help="With --from-log: list so many replays that differ, of each tier.")
]


@dataclass(frozen=True, slots=True)
class LogSource:
    """A file, or else a gateway at ``url``. ``days``: only requests of so many."""

    file: Path | None
    url: str = DEFAULT_URL
    api_key: str = ""
    days: int | None = None

    @contextmanager
    def exported(self) -> Iterator[Path]:
        """The export as a file. One that was fetched is gone with the block: it has what people asked."""
        if self.file is not None:
            yield self.file
            return
        if not self.api_key:
            raise LogError(
                "give the account key of the organisation, as --account-key or in TALLYGATE_ACCOUNT_KEY; "
                "or an export of its recorded requests, as --file"
            )
        with tempfile.TemporaryDirectory(prefix="tallygate-log-") as folder:
            path = Path(folder) / "recordings.jsonl"
            Api(self.url.rstrip("/"), self.api_key).save("/cache/recordings", {"days": self.days}, path)
            yield path


def run(source: LogSource, tiers: Sequence[str], *, max_error: float, show: int) -> None:
    """Prints a table, the replays that differ, and one line of JSON for each tier; of all tiers where none is named.

    Raises:
        LogError: there is no log, or it is not one.
        MeshError: a record is not one that the cache takes for a request.
    """
    # Imported here: other commands need not wait for scipy and the cache, nor have them.
    from cache_svc.wiring import SemanticMissing  # noqa: PLC0415
    from tallygate_deploy.cache_safety.from_log import TIERS, live_through  # noqa: PLC0415

    unknown = [name for name in tiers if name not in TIERS]
    if unknown:
        raise LogError(f"--tier is {unknown[0]!r}, not one of {', '.join(TIERS)}")
    with source.exported() as path:
        from_ms = time.time_ns() // 1_000_000 - source.days * _MS_PER_DAY if source.days else 0
        log = _reading(path, from_ms)
        if next(iter(log()), None) is None:
            raise LogError(
                "no requests are recorded. An organisation records them once its cache policy has `record_requests`: "
                "deploy/docs/cache-recording.md"
            )
        try:
            reports = [asyncio.run(live_through(log, tier, max_error=max_error)) for tier in tiers or TIERS]
        except SemanticMissing as error:
            raise LogError(f"{error}; or name other tiers with --tier") from error
    _tell(reports, show)


def _reading(path: Path, from_ms: int) -> Callable[[], Iterable[Recorded]]:
    def log() -> Iterator[Recorded]:
        with path.open("rb") as lines:
            yield from read_log(lines, from_ms=from_ms)

    return log


def _tell(reports: Sequence[TierReport], show: int) -> None:
    console = Console(highlight=False, width=None if Console().is_terminal else 200)
    table = Table(
        "tier", "requests", "replays", "fresh $", "as replays $", "saved $", "judged", "differ", "at most 95%"
    )
    for report in reports:
        share = report.disagreement
        table.add_row(
            report.tier,
            str(report.requests),
            str(report.hits),
            format_usd(report.hits_fresh_nano_usd),
            format_usd(report.hits_replay_nano_usd),
            format_usd(report.saved_nano_usd),
            str(share.total),
            str(share.count),
            f"{share.high:.2%}",
        )
    console.print(table)
    console.print(f"All requests together cost {format_usd(reports[0].fresh_nano_usd)} $ fresh.")
    for why, count in sorted(reports[0].not_kept.items(), key=lambda item: -item[1])[:_SHOWN_REASONS]:
        console.print(f"{count} answers can't be replayed: {why}", markup=False)
    for report in reports:
        for one in report.differences[:show]:
            expected = ", as a sampled request may" if one.sampled else ""
            found = f"{one.asked}: the {one.tier} tier would have given the answer of {one.replayed}"
            console.print(f"{report.tier}: {found}, which differs{expected}", markup=False, soft_wrap=True)
        if len(report.differences) > show:
            console.print(f"{report.tier}: {len(report.differences) - show} more differ; --show lists them")
    for report in reports:
        typer.echo(json.dumps(report.line()))
