"""A write session that loses its connection at COMMIT."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from sqlalchemy import Connection

from ledger_svc.store.bulk import Part
from ledger_svc.store.database import WriteSession

T = TypeVar("T")


class Dying(WriteSession):
    """Loses its connection at COMMIT, ``before`` or after the server has done it."""

    def __init__(self, session: WriteSession, deaths: list[str]) -> None:
        self._session = session
        self._deaths = deaths

    async def transact(self, work: Callable[[Connection], T]) -> T:
        death = self._deaths.pop(0) if self._deaths else ""

        def dies(connection: Connection) -> T:
            work(connection)
            raise ConnectionResetError("connection lost")

        if death == "before":
            return await self._session.transact(dies)
        answer = await self._session.transact(work)
        if death == "after":
            raise ConnectionResetError("connection lost")
        return answer

    async def append(self, epoch: int, parts: Sequence[Part], before_commit: Callable[[], None]) -> bool:
        death = self._deaths.pop(0) if self._deaths else ""
        if death == "before":
            raise ConnectionResetError("connection lost")
        is_done = await self._session.append(epoch, parts, before_commit)
        if death == "after":
            raise ConnectionResetError("connection lost")
        return is_done

    async def close(self) -> None:
        await self._session.close()
