"""Use cases: the current revision, an earlier one, a watch, and reading the catalog again when it changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, date, datetime
from typing import Protocol

import structlog

from catalog_svc.domain import CatalogInvalid, Contents, RevisionNotFound, Snapshot, StoreUnavailable, make_snapshot
from meshkit.clock import Clock

Sleep = Callable[[float], Awaitable[None]]
"""Waits that many seconds."""

_log = structlog.get_logger(__name__)


class SnapshotStore(Protocol):
    """Keeps revisions: as many as it is bounded to, the longest unused forgotten first."""

    async def put(self, snapshot: Snapshot) -> None:
        """Keeps ``snapshot`` and makes it the newest. A revision that is there already keeps its content and its time.

        Raises:
            StoreUnavailable: it could not be written.
        """

    async def get(self, revision: str) -> Snapshot | None:
        """The revision of that name; None where it is not kept.

        Raises:
            StoreUnavailable: it could not be read, or is not what was written.
        """

    async def revisions(self) -> tuple[str, ...]:
        """The names of all that are kept, the newest last."""


class Origin(Protocol):
    """Where the catalog is read from."""

    async def fingerprint(self) -> str:
        """Changes whenever what ``read`` sees has changed; does not raise for what can't be read."""

    async def read(self, today: date) -> Contents:
        """The whole catalog with the prices in force on ``today`` (UTC).

        Raises:
            CatalogInvalid: it is not one.
        """


class CatalogService:
    """Holds the current revision and tells watchers of the next. Call ``start`` before anything else."""

    def __init__(
        self, origin: Origin, store: SnapshotStore, clock: Clock, sleep: Sleep, *, reload_poll_s: float
    ) -> None:
        self._origin = origin
        self._store = store
        self._clock = clock
        self._sleep = sleep
        self._reload_poll_s = reload_poll_s
        self._current: Snapshot | None = None
        self._seen: tuple[str, date] | None = None
        self._changed = asyncio.Event()
        self._closed = False

    async def start(self) -> None:
        """Reads the catalog for the first time.

        Raises:
            CatalogInvalid: it is not one; the service must not serve.
            StoreUnavailable: the revision could not be kept.
        """
        seen = await self._what_is_there()
        await self._publish(await self._origin.read(seen[1]))
        self._seen = seen

    @property
    def current(self) -> Snapshot:
        """The current revision."""
        assert self._current is not None, "start() comes first"
        return self._current

    async def snapshot(self, revision: str) -> Snapshot:
        """The revision of that name; the current one for an empty name.

        Raises:
            RevisionNotFound: it is not kept.
            StoreUnavailable: it could not be read.
        """
        if revision in ("", self.current.revision):
            return self.current
        kept = await self._store.get(revision)
        if kept is None:
            raise RevisionNotFound(revision)
        return kept

    async def watch(self, known_revision: str = "") -> AsyncIterator[Snapshot]:
        """The current revision unless it is ``known_revision``, then each new one; a slow reader gets the newest only.

        Ends when the service closes.
        """
        sent = known_revision
        while not self._closed:
            changed, snapshot = self._changed, self.current
            if snapshot.revision != sent:
                sent = snapshot.revision
                yield snapshot
            else:
                await changed.wait()

    async def reload_if_changed(self) -> bool:
        """Reads the catalog again if it, or the day, has changed; whether there is a new revision now.

        What can't be read leaves the current revision in place and is logged, once for each content.
        """
        seen = await self._what_is_there()
        if seen == self._seen:
            return False
        before = self.current.revision
        try:
            await self._publish(await self._origin.read(seen[1]))
        except CatalogInvalid as error:
            _log.error("catalog_reload_refused", problems=error.problems, kept_revision=before)
        except StoreUnavailable as error:
            # The content is good and was not published: try it again at the next poll.
            _log.error("catalog_store_unavailable", problem=str(error), kept_revision=before)
            return False
        self._seen = seen
        return self.current.revision != before

    async def keep_reloading(self) -> None:
        """Calls ``reload_if_changed`` every ``reload_poll_s`` until cancelled."""
        while True:
            await self._sleep(self._reload_poll_s)
            await self.reload_if_changed()

    def close(self) -> None:
        """Ends all watches."""
        self._closed = True
        self._changed.set()

    async def _what_is_there(self) -> tuple[str, date]:
        today = datetime.fromtimestamp(self._clock.now_ms() / 1000, tz=UTC).date()
        return await self._origin.fingerprint(), today

    async def _publish(self, contents: Contents) -> None:
        fresh = make_snapshot(contents, created_at_ms=self._clock.now_ms())
        if self._current is not None and fresh.revision == self._current.revision:
            return
        # A revision is immutable, its time included: one that was loaded before comes back as it was.
        snapshot = await self._store.get(fresh.revision) or fresh
        await self._store.put(snapshot)
        self._current = snapshot
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        _log.info(
            "catalog_revision", revision=snapshot.revision, models=len(snapshot.models), offers=len(snapshot.offers)
        )
