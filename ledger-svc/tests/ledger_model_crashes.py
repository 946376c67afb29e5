"""Lets the ledger under the model crash at a COMMIT."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection

from ledger_svc.store.database import Database, WriteSession
from ledger_svc.store.opening import open_database
from ledger_svc.store.writer import CommitSeam

T = TypeVar("T")


class Crash(BaseException):
    """The process is no more. No code under test may take it for an error that it can answer."""


class CrashingSeam(CommitSeam):
    """Crashes at the n-th COMMIT from when it was told to, before it or after."""

    def __init__(self) -> None:
        self.happened = asyncio.Event()
        self._point, self._left, self._answers_early = "", 0, False

    def plan(self, point: str, commits_before: int, *, answers_early: bool = False) -> None:
        """``answers_early`` plants a bug: callers are told before the COMMIT."""
        self._point, self._left, self._answers_early = point, commits_before, answers_early

    def before_commit(self, answer: Callable[[], None]) -> None:
        if self._answers_early:
            answer()
        if self._point == "before":
            self._reach()

    def after_commit(self) -> None:
        if self._point == "after":
            self._reach()

    def in_checkpoint(self) -> None:
        if self._point == "checkpoint":
            self._reach()

    def _reach(self) -> None:
        if not self._left:
            self.happened.set()
            raise Crash
        self._left -= 1


class MortalDatabase(Database):
    """A database of whose sessions, as of a dead process, none is left once it is closed."""

    def __init__(self, url: str) -> None:
        self._inner = open_database(url, connections=2, wait_s=20)
        self._sessions: list[WriteSession] = []

    async def snapshot(self, work: Callable[[Connection], T]) -> T:
        return await self._inner.snapshot(work)

    async def write_session(self) -> WriteSession | None:
        session = await self._inner.write_session()
        if session is not None:
            self._sessions.append(session)
        return session

    async def close(self) -> None:
        for session in self._sessions:
            await session.close()
        await self._inner.close()

    async def _write(self, work: Callable[[Connection], T]) -> T:
        return await self._inner._write(work)

    async def _read(self, work: Callable[[Connection], T]) -> T:
        return await self._inner._read(work)
