"""One transaction for many commands.

A refused command leaves the book as it was and costs its neighbours nothing. A command that meets a bug while it
decides is known at once, and the batch runs again without it. A failure of a statement does not say whose row it was:
the batch is cut in halves until the guilty command stands alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from ledger_svc.domain.book import Book
from ledger_svc.domain.command import Command
from ledger_svc.domain.errors import LedgerError, LedgerUnavailable
from ledger_svc.store.books import changes, load
from ledger_svc.store.bulk import Part, write_all
from ledger_svc.store.failures import is_passing
from ledger_svc.store.fence import Lease
from ledger_svc.store.sealing import Sealer, documents_of

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


async def decide_under(
    lease: Lease,
    commands: Sequence[Command[Any]],
    sealer: Sealer,
    before_commit: Callable[[list[Answer]], None],
) -> tuple[Book, list[Answer]]:
    """Answers commands in one transaction of the writer's, which is durable when it returns: on what the lease
    remembers, where that is all they need and none is refused, else on what is read. Gives the book that they decided
    on, too.

    Raises:
        Guilty: nothing was written.
        Deposed: likewise.
    """
    from_memory = await _decide_from_memory(lease, commands, sealer, before_commit)
    if from_memory is not None:
        return from_memory
    book, answers = await lease.transact(partial(_read_and_decide, commands, sealer, before_commit))
    lease.memory.keep(book)
    return book, answers


async def _decide_from_memory(
    lease: Lease,
    commands: Sequence[Command[Any]],
    sealer: Sealer,
    before_commit: Callable[[list[Answer]], None],
) -> tuple[Book, list[Answer]] | None:
    """None where that does not do, and nothing was written: more is needed than is remembered, or what is remembered
    refuses. A refusal is for the books to say: they may know that the command was answered before.
    """
    book = lease.memory.recall(command.needs for command in commands)
    if book is None:
        return None
    answers = decide_on(book, commands)
    if any(answer.error is not None for answer in answers):
        return None
    try:
        await lease.append(_written(book, sealer), lambda: before_commit(answers))
    except DBAPIError as error:
        if is_passing(error):
            raise
        _log.info("batch_read_after_all", commands=len(commands), cause=repr(error.orig))  # a command came again
        return None
    lease.memory.keep(book)
    return book, answers


def _read_and_decide(
    commands: Sequence[Command[Any]],
    sealer: Sealer,
    before_commit: Callable[[list[Answer]], None],
    connection: Connection,
) -> tuple[Book, list[Answer]]:
    book = load(connection, [command.needs for command in commands], fenced=True)
    answers = decide_on(book, commands)
    write_all(connection, *_written(book, sealer))
    before_commit(answers)
    return book, answers


def _written(book: Book, sealer: Sealer) -> list[Part]:
    assert book.log_size is not None, "the writer knows the log's size"
    return [*changes(book), *sealer.leaves(book.new_receipts, book.new_entries, book.log_size)]


def decide_beside_others(connection: Connection, commands: Sequence[Command[Any]], sealer: Sealer) -> list[Answer]:
    """The same in the transaction of anyone, under locks of what the commands need. No COMMIT."""
    book = load(connection, [command.needs for command in commands], fenced=False)
    answers = decide_on(book, commands)
    documents = documents_of(book.new_receipts, book.new_entries)
    write_all(connection, *changes(book), *sealer.leaves_of(connection, documents))
    return answers


def decide_on(book: Book, commands: Sequence[Command[Any]]) -> list[Answer]:
    """Lets each command decide in turn.

    Raises:
        Guilty: the book may be half changed.
    """
    return [_decide(book, command, place) for place, command in enumerate(commands)]


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
