"""Who may write. Of all processes on a database one has the write session (``Database.write_session``), and with it an
epoch, a number that each taking raises.

Every transaction of the writer reads the epoch's row under lock and compares. So a writer that was taken for dead
while it only hung finds at its next transaction that it is deposed, and writes nothing; and a transaction whose
COMMIT is still under way, after its connection was lost, is over before the next one reads: it holds the row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from sqlalchemy import Connection, select, update

from ledger_svc.store.bulk import Part
from ledger_svc.store.database import Database, WriteSession
from ledger_svc.store.memory import Memory
from ledger_svc.store.tables import WRITER_EPOCH

T = TypeVar("T")

_READ_EPOCH = select(WRITER_EPOCH.c.epoch)
_LOCK_EPOCH = _READ_EPOCH.with_for_update()
_RAISE_EPOCH = update(WRITER_EPOCH).values(epoch=WRITER_EPOCH.c.epoch + 1).returning(WRITER_EPOCH.c.epoch)


class Deposed(Exception):
    """Another process has become the writer."""


class Lease:
    """The right to write, until another takes it or the session is lost."""

    def __init__(self, session: WriteSession, epoch: int) -> None:
        self._session = session
        self.epoch = epoch
        self.memory = Memory()
        """What a batch has left; whoever changes the books otherwise lets it forget."""

    @classmethod
    async def take(cls, database: Database) -> Lease | None:
        """Takes the write session and raises the epoch; None while another process has the session."""
        session = await database.write_session()
        if session is None:
            return None
        try:
            return cls(session, await session.transact(_raise_epoch))
        except BaseException:
            await session.close()
            raise

    async def transact(self, work: Callable[[Connection], T]) -> T:
        """Runs ``work`` in a transaction, and gives what it gives once the COMMIT is durable.

        Raises:
            Deposed: another has taken over; nothing was written.
        """

        def fenced(connection: Connection) -> T:
            if connection.execute(_LOCK_EPOCH).scalar_one() != self.epoch:
                raise Deposed
            return work(connection)

        with self._doubt_forgets():
            return await self._session.transact(fenced)

    async def append(self, parts: Sequence[Part], before_commit: Callable[[], None]) -> None:
        """Writes in a transaction that reads nothing; durable when it returns. ``before_commit`` is called when nothing
        of it is.

        Raises:
            Deposed: another has taken over; nothing was written.
        """
        with self._doubt_forgets():
            if not await self._session.append(self.epoch, parts, before_commit):
                raise Deposed

    @contextmanager
    def _doubt_forgets(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.memory.forget()
            raise

    async def give_back(self) -> None:
        """Ends the session; another process may take it."""
        await self._session.close()


async def current_epoch(database: Database) -> int:
    """The epoch as it stands."""
    return await database.read(lambda connection: connection.execute(_READ_EPOCH).scalar_one())


def _raise_epoch(connection: Connection) -> int:
    epoch: int = connection.execute(_RAISE_EPOCH).scalar_one()
    return epoch
