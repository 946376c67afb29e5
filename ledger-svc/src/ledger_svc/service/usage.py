"""Usage: what is asked of it, checked; and the task that makes the sums up."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace

import structlog

from ledger_svc.domain.charges import Tags
from ledger_svc.domain.errors import InvalidRequest, Standby
from ledger_svc.domain.limits import (
    MAX_ID_CHARS,
    MAX_TAG_KEY_CHARS,
    MAX_TAG_VALUE_CHARS,
    MAX_TIME_MS,
    check_range,
    check_tags,
    check_text,
)
from ledger_svc.domain.usage import DAY_MS, HOUR_MS, Dimension, Question, Usage
from ledger_svc.service.paging import check_page_size, numbers_of_token, page_of, position_of_token, token_of_numbers
from ledger_svc.service.ports import Sleep
from ledger_svc.service.usage_ports import (
    Failure,
    FinishedRequest,
    Movement,
    MovementStore,
    RequestFilter,
    RequestStore,
    Span,
    UsageStore,
)

MAX_DAYS = 366
MAX_FAILURES = 1_000
FOLD_LEAVES = 256
"""Receipts of one transaction: a few milliseconds of the writer's time."""

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_FILTERS = ("project_id", "key_id", "model")
_log = structlog.get_logger(__name__)


class UsageService:
    """Sums, single requests, and movements of a balance."""

    def __init__(self, *, sums: UsageStore, requests: RequestStore, movements: MovementStore) -> None:
        self._sums = sums
        self._requests = requests
        self._movements = movements

    async def usage(self, question: Question) -> tuple[Question, Usage]:
        """The question as it was rounded, and its answer.

        Raises:
            InvalidRequest, LedgerUnavailable.
        """
        check_text("org_id", question.org_id)
        for name in _FILTERS:
            check_text(name, getattr(question, name), empty=True)
        _check_dimensions(question)
        check_range("from_ms", question.from_ms, 0, MAX_TIME_MS)
        check_range("to_ms", question.to_ms, 0, MAX_TIME_MS)
        rounded = replace(
            question,
            from_ms=question.from_ms - question.from_ms % HOUR_MS,
            to_ms=-(-question.to_ms // HOUR_MS) * HOUR_MS,
        )
        if not 0 < rounded.to_ms - rounded.from_ms <= MAX_DAYS * DAY_MS + HOUR_MS:
            raise InvalidRequest("to_ms", f"must be after from_ms, by {MAX_DAYS} days at most")
        return rounded, await self._sums.usage(rounded)

    async def page(self, asked: RequestFilter, *, page_size: int, page_token: str) -> tuple[list[FinishedRequest], str]:
        """Requests, newest first, and the token of the next page ("": there is none).

        Raises:
            InvalidRequest.
        """
        check_text("org_id", asked.org_id)
        for name in (*_FILTERS, "source_id"):
            check_text(name, getattr(asked, name), empty=True)
        for name in ("from_ms", "to_ms"):
            check_range(name, getattr(asked, name), 0, MAX_TIME_MS)
        if asked.tag is not None:
            _check_tag_key(asked.tag[0])
            check_text("tag_value", asked.tag[1], max_chars=MAX_TAG_VALUE_CHARS, empty=True)
        size = check_page_size(page_size)
        found = await self._requests.requests(asked, limit=size + 1, before=position_of_token(page_token))
        return page_of(found, size, lambda request: request.position)

    async def request(self, org_id: str, request_id: str) -> FinishedRequest:
        """One request.

        Raises:
            NotFound, InvalidRequest.
        """
        return await self._requests.request(check_text("org_id", org_id), check_text("request_id", request_id))

    async def record(self, failures: Sequence[Failure]) -> int:
        """Keeps requests that failed; gives how many are new. They come from an edge, which had them from clients: a
        text that is too long or can't be shown is made fit, so that it does not keep the others.

        Raises:
            InvalidRequest, LedgerUnavailable.
        """
        check_range("failures (entries)", len(failures), 0, MAX_FAILURES)
        return await self._sums.record([_fit(failure) for failure in failures])

    async def rebuild(self) -> int:
        """Has all sums made up again; gives how many leaves the log has.

        Raises:
            LedgerUnavailable.
        """
        return await self._sums.rebuild()

    async def movements(
        self, org_id: str, *, from_ms: int, to_ms: int, page_size: int, page_token: str
    ) -> tuple[list[Movement], str, Span]:
        """Movements, the token of the next page ("": there is none), and on the first the balance before and after.

        Raises:
            NotFound, InvalidRequest.
        """
        check_text("org_id", org_id)
        check_range("from_ms", from_ms, 0, MAX_TIME_MS)
        check_range("to_ms", to_ms, 0, MAX_TIME_MS)
        if to_ms and to_ms < from_ms:
            raise InvalidRequest("to_ms", "must not be before from_ms")
        size = check_page_size(page_size)
        if page_token:
            numbers = numbers_of_token(page_token, 4)
            span = Span((numbers[0], numbers[1]), (numbers[2], numbers[3]))
        else:
            span = await self._movements.span(org_id, from_ms=from_ms, to_ms=to_ms)
        found, after = await self._movements.movements(org_id, span, from_ms=from_ms, to_ms=to_ms, limit=size)
        return found, "" if after is None else token_of_numbers(*after, *span.until), span


class UsageFolding:
    """Keeps the sums up with the receipts."""

    def __init__(self, sums: UsageStore) -> None:
        self._sums = sums

    async def fold(self) -> int:
        """Takes all that there is; gives how much it was.

        Raises:
            LedgerUnavailable.
        """
        total = 0
        while taken := await self._sums.fold(limit=FOLD_LEAVES):
            total += taken
        return total

    async def run(self, interval_s: float, sleep: Sleep = asyncio.sleep) -> None:
        """Folds every ``interval_s`` until cancelled. A failure is logged; the next time tries again."""
        while True:
            await sleep(interval_s)
            try:
                await self.fold()
            except Standby:
                continue  # the replica that writes does it
            except Exception:  # noqa: BLE001 - whatever it was, questions add up the rest themselves until then
                _log.exception("usage_not_folded")


def _check_dimensions(question: Question) -> None:
    dimensions = question.dimensions
    if len(dimensions) > 2 or len(set(dimensions)) < len(dimensions):
        raise InvalidRequest("group_by", "takes at most two dimensions, different ones")
    if {Dimension.DAY, Dimension.HOUR} <= set(dimensions):
        raise InvalidRequest("group_by", "takes day or hour, not both")
    if Dimension.TAG in dimensions:
        _check_tag_key(question.tag_key)


def _check_tag_key(key: str) -> None:
    check_text("tag_key", key, max_chars=MAX_TAG_KEY_CHARS)


def _fit(failure: Failure) -> Failure:
    for name in ("org_id", "project_id", "key_id", "request_id"):
        check_text(f"failures.{name}", getattr(failure, name))
    return replace(
        failure,
        **{
            name: _UNPRINTABLE.sub("\ufffd", getattr(failure, name)[:MAX_ID_CHARS])
            for name in ("requested_model", "model", "error_code", "trace_id")
        },
        http_status=min(max(failure.http_status, 0), 999),
        latency_ms=min(max(failure.latency_ms, 0), MAX_TIME_MS),
        at_ms=check_range("failures.at_ms", failure.at_ms, 0, MAX_TIME_MS),
        tags=_fitting(failure.tags),
    )


def _fitting(tags: Tags) -> Tags:
    try:
        return check_tags("failures.tags", tags)
    except InvalidRequest:
        return ()
