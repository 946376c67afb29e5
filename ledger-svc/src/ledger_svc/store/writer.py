"""The one writer of a database, and what stands by where another process is it.

Whatever changes the books waits in one bounded queue. The commands that came while a COMMIT was under way are the next
batch: one transaction, one COMMIT, then the answers. A command that finds the queue empty goes at once.

A connection that is lost, in COMMIT or before, leaves a doubt. It is resolved by taking a new session and running the
batch again: a command finds its own traces by the key under which it may come only once, and answers as it did, and
one that left none is decided anew. Where no session can be had again the callers are told ``LedgerUnavailable``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from sqlalchemy import Connection

from ledger_svc.domain.book import Book
from ledger_svc.domain.command import Command
from ledger_svc.domain.errors import LedgerError, LedgerUnavailable, QueueFull, Standby
from ledger_svc.store.batch import Answer, answer_each, decide_under
from ledger_svc.store.database import Database
from ledger_svc.store.failures import database_failures, is_worth_another_try
from ledger_svc.store.fence import Deposed, Lease, current_epoch
from ledger_svc.store.sealing import Sealer

R = TypeVar("R")
T = TypeVar("T")

MAX_TRIES = 4
_REGAIN_S = 2.0
_REGAIN_AFTER_S = 0.05

_log = structlog.get_logger(__name__)

Work = Callable[[Connection], Any]
Refusal = Callable[[], LedgerUnavailable]
Follower = Callable[[Book], None]


class CommitSeam:
    """The moments round a COMMIT, for a test that kills the process there or plants a bug. In production nothing
    happens. A method may be called in the event loop's thread or in another.
    """

    def before_commit(self, answer: Callable[[], None]) -> None:
        """All is decided, and nothing durable. ``answer`` would tell the callers so before it is: the bug that a
        harness plants.
        """

    def after_commit(self) -> None:
        """All is durable, and no caller has been told."""

    def in_checkpoint(self) -> None:
        """The subtrees of a checkpoint are written, it itself is not, and nothing of it is durable."""


@dataclass(slots=True)
class _Waiting:
    task: Command[Any] | Work
    future: asyncio.Future[Any]
    beside_books: bool


class Writer:
    """Implements ``ports.Ledger``, and runs what else changes the database.

    ``max_waiting``: commands that may wait. ``max_batch``: of one transaction. ``takeover_poll_s``: between two tries
    to become the writer.
    """

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        *,
        max_waiting: int = 4_096,
        max_batch: int = 256,
        takeover_poll_s: float = 0.5,
        seam: CommitSeam | None = None,
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._max_waiting = max_waiting
        self._max_batch = max_batch
        self._takeover_poll_s = takeover_poll_s
        self._seam = seam or CommitSeam()
        self._queue: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._lease: Lease | None = None
        self._refusal: Refusal | None = Standby
        self._closing = False
        self._written: list[Book] = []
        self._followers: list[Follower] = []

    @property
    def is_leading(self) -> bool:
        """Whether this process is the writer, as far as it knows."""
        return self._lease is not None

    @property
    def epoch(self) -> int | None:
        """Under which it writes: while that is the same, nobody else has written. None: another process writes."""
        return None if self._lease is None else self._lease.epoch

    @property
    def log_size(self) -> int | None:
        """Leaves of the log that are durable, as far as it remembers them; None: the log has to be asked."""
        return None if self._lease is None else self._lease.memory.log_size

    def follow(self, follower: Follower) -> None:
        """From now on shows ``follower`` the book of each batch, once it is durable and the callers have been told."""
        self._followers.append(follower)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Writer]:
        """Writes, or stands by, inside the block. On leaving, what waits is still done.

        Raises:
            LedgerUnavailable: the database can't be reached.
        """
        with database_failures():
            self._follow(await Lease.take(self._database))
        task = asyncio.create_task(self._run())
        try:
            yield self
        finally:
            self._closing = True
            self._wake.set()
            await task

    async def execute(self, command: Command[R]) -> R:
        """See ``ports.Ledger``.

        Raises:
            Standby: another replica is the writer.
            QueueFull: nothing was recorded.
        """
        answer: R = await self._enqueue(command)
        return answer

    async def write(self, work: Callable[[Connection], T], *, beside_books: bool = False) -> T:
        """Runs ``work`` in a transaction of its own, in turn with the commands. It may run more than once, also after a
        COMMIT in doubt, and must find its own traces. ``beside_books``: it changes nothing that a command reads.

        Raises:
            Standby, QueueFull, LedgerUnavailable.
        """
        answer: T = await self._enqueue(work, beside_books=beside_books)
        return answer

    async def _enqueue(self, task: Command[Any] | Work, *, beside_books: bool = False) -> Any:
        if self._refusal is not None:
            raise self._refusal()
        if len(self._queue) >= self._max_waiting:
            raise QueueFull
        waiting = _Waiting(task, asyncio.get_running_loop().create_future(), beside_books)
        self._queue.append(waiting)
        self._wake.set()
        return await waiting.future

    async def _run(self) -> None:
        while not self._closing or (self._lease is not None and self._queue):
            if self._lease is None:
                await self._stand_by()
            elif self._queue:
                await self._run_next()
            else:
                await self._pause(None)
        await self._drop_lease(_ending)

    async def _pause(self, at_most_s: float | None) -> None:
        """Until there is something to do."""
        self._wake.clear()
        if not self._closing:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), at_most_s)

    async def _stand_by(self) -> None:
        """Waits a while, then tries to become the writer."""
        await self._pause(self._takeover_poll_s)
        if self._closing:
            return
        try:
            self._follow(await Lease.take(self._database))
        except Exception as error:  # noqa: BLE001 - whatever it was, the next try comes soon
            _log.warning("lease_not_taken", cause=repr(error))
            self._refusal = _unreachable

    def _follow(self, lease: Lease | None) -> None:
        """Takes note of who writes."""
        self._lease = lease
        self._refusal = Standby if lease is None else None
        if lease is not None:
            _log.info("lease_taken", epoch=lease.epoch)

    async def _run_next(self) -> None:
        batch = self._next_batch()
        if batch and isinstance(batch[0].task, Command):
            _tell(batch, await answer_each(batch, self._decide))
            self._show_followers()
        elif batch:
            _tell(batch, await answer_each(batch, self._run_alone))

    def _next_batch(self) -> list[_Waiting]:
        """What runs alone, or the commands before the next that does. A caller that has gone is left out."""
        batch: list[_Waiting] = []
        while self._queue and len(batch) < self._max_batch:
            task = self._queue[0].task
            alone = not isinstance(task, Command) or task.alone
            if batch and alone:
                break
            waiting = self._queue.popleft()
            if waiting.future.done():
                continue
            batch.append(waiting)
            if alone:
                break
        return batch

    async def _decide(self, batch: Sequence[_Waiting]) -> list[Answer]:
        commands = [waiting.task for waiting in batch if isinstance(waiting.task, Command)]
        loop = asyncio.get_running_loop()

        def before_commit(answers: list[Answer]) -> None:
            self._seam.before_commit(lambda: _tell_from(loop, batch, answers))

        decided = await self._under_lease(lambda lease: decide_under(lease, commands, self._sealer, before_commit))
        book, answers = decided
        self._seam.after_commit()
        self._written.append(book)
        return answers

    def _show_followers(self) -> None:
        written, self._written = self._written, []
        for book in written:
            for follower in self._followers:
                try:
                    follower(book)
                except Exception:  # noqa: BLE001 - a bug of its own must not stop the writer; it reads the log instead
                    _log.exception("follower_failed")

    async def _run_alone(self, batch: Sequence[_Waiting]) -> list[Answer]:
        (waiting,) = batch
        work = waiting.task
        assert not isinstance(work, Command)

        async def transact(lease: Lease) -> Any:
            if not waiting.beside_books:
                lease.memory.forget()
            return await lease.transact(work)

        try:
            return [Answer(await self._under_lease(transact))]
        except LedgerError as refusal:
            return [Answer(error=refusal)]

    async def _under_lease(self, act: Callable[[Lease], Awaitable[T]]) -> T:
        """Acts under the lease; again under a new one where the session was lost."""
        for _ in range(MAX_TRIES):
            if self._lease is None:
                break
            try:
                with database_failures():
                    return await act(self._lease)
            except Deposed:
                await self._drop_lease(Standby)
            except LedgerUnavailable as error:
                _log.warning("session_failed", cause=repr(error.__cause__))
                await self._regain()
                if not is_worth_another_try(error.__cause__):
                    raise
        raise (self._refusal or _unreachable)()

    async def _regain(self) -> None:
        """Takes a new session in place of one that failed: whether it still has its lock is not known. The server may
        keep the old one's lock a little longer than the connection lived.
        """
        assert self._lease is not None
        lost, self._lease = self._lease, None
        await lost.give_back()
        loop = asyncio.get_running_loop()
        until = loop.time() + _REGAIN_S
        refusal: Refusal = Standby
        while loop.time() < until:
            try:
                lease = await Lease.take(self._database)
                if lease is not None:
                    return self._follow(lease)
                refusal = Standby
                if await current_epoch(self._database) != lost.epoch:
                    break
            except Exception as error:  # noqa: BLE001 - its time is bounded, and standing by goes on trying
                _log.warning("lease_not_taken", cause=repr(error))
                refusal = _unreachable
            await asyncio.sleep(_REGAIN_AFTER_S)
        return await self._drop_lease(refusal)

    async def _drop_lease(self, refusal: Refusal) -> None:
        """From now on every caller is refused, those that wait too."""
        lease, self._lease, self._refusal = self._lease, None, refusal
        while self._queue:
            _tell([self._queue.popleft()], [Answer(error=refusal())])
        if lease is not None:
            await lease.give_back()


def _tell(batch: Sequence[_Waiting], answers: Sequence[Answer]) -> None:
    for waiting, answer in zip(batch, answers, strict=True):
        if waiting.future.done():  # the caller has gone
            continue
        if answer.error is None:
            waiting.future.set_result(answer.value)
        else:
            waiting.future.set_exception(answer.error)


def _tell_from(loop: asyncio.AbstractEventLoop, batch: Sequence[_Waiting], answers: Sequence[Answer]) -> None:
    """From any thread."""
    loop.call_soon_threadsafe(_tell, batch, answers)


def _ending() -> LedgerUnavailable:
    return LedgerUnavailable("the ledger is ending")


def _unreachable() -> LedgerUnavailable:
    return LedgerUnavailable("the ledger's database can't be reached")
