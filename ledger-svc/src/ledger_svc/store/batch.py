"""One transaction for many commands.

A refused command leaves the book as it was and costs its neighbours nothing. A command that meets a bug while it
decides is known at once, and the batch runs again without it. A failure of a statement does not say whose row it was:
the batch is cut in halves until the guilty command stands alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from sqlalchemy import Connection

from ledger_svc.domain.book import Book
from ledger_svc.domain.command import Command
from ledger_svc.domain.errors import LedgerError, LedgerUnavailable
from ledger_svc.store.books import flush, load
from ledger_svc.store.sealing import Sealer

T = TypeVar("T")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command gave, or the error that it ended with."""

    value: Any = None
    error: Exception | None = None


class Guilty(Exception):
    """A command met a bug while it decided: the cause. ``place``: which, counted from 0."""

    def __init__(self, place: int) -> None:
        super().__init__(place)
        self.place = place


def decide(
    connection: Connection, commands: Sequence[Command[Any]], sealer: Sealer, *, fenced: bool = True
) -> list[Answer]:
    """Loads what the commands need, lets each decide in turn, and writes what they changed. No COMMIT. ``fenced``: see
    ``load``.

    Raises:
        Guilty: the book may be half changed, and nothing was written.
    """
    book = load(connection, [command.needs for command in commands], fenced=fenced)
    answers = [_decide(book, command, place) for place, command in enumerate(commands)]
    flush(connection, book, *sealer.leaves(connection, book.new_receipts, book.new_entries, size=book.log_size))
    return answers


def _decide(book: Book, command: Command[Any], place: int) -> Answer:
    try:
        return Answer(command.decide(book))
    except LedgerError as refusal:
        return Answer(error=refusal)
    except Exception as error:
        raise Guilty(place) from error


async def answer_each(items: Sequence[T], attempt: Callable[[Sequence[T]], Awaitable[list[Answer]]]) -> list[Answer]:
    """Gives an answer to each item, in order. ``attempt`` does some in one transaction that is durable when it returns;
    a failure of its that passes (``LedgerUnavailable``) is not theirs, so it is what all of them are told.
    """
    if not items:
        return []
    try:
        return await attempt(items)
    except LedgerUnavailable as error:
        return [Answer(error=error)] * len(items)
    except Guilty as guilty:
        place, cause = guilty.place, guilty.__cause__
        assert isinstance(cause, Exception)
        _log.error("command_failed", exc_info=cause)
        answers = await answer_each([*items[:place], *items[place + 1 :]], attempt)
        return [*answers[:place], Answer(error=cause), *answers[place:]]
    except Exception as error:  # noqa: BLE001 - whoever is guilty is told, nobody else
        if len(items) == 1:
            _log.exception("command_failed")
            return [Answer(error=error)]
        _log.warning("batch_bisected", commands=len(items), cause=repr(error))
        middle = len(items) // 2
        return [*await answer_each(items[:middle], attempt), *await answer_each(items[middle:], attempt)]
