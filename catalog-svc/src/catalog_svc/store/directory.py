"""Revisions as files of one directory, so that receipts find theirs after a restart.

Each is ``NNNNNNNNNN-REVISION.json``; the number orders them, the highest is the newest. It holds one line with the
SHA-256 of the rest, then the snapshot as JSON. A file is written beside and renamed, so that a crash leaves the old
state or the new.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from catalog_svc.domain import Snapshot, StoreUnavailable

_NAME = re.compile(r"(\d{10})-([0-9a-f]{16})\.json")
_SNAPSHOT = TypeAdapter(Snapshot)


class DirectoryStore:
    """Keeps at most ``keep`` revisions in ``directory``, which is made if need be. One process writes to it.

    Raises:
        StoreUnavailable: the directory can't be made or listed.
    """

    def __init__(self, directory: Path, *, keep: int) -> None:
        assert keep > 0
        self._directory = directory
        self._keep = keep
        self._lock = asyncio.Lock()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            matches = [match for path in directory.iterdir() if (match := _NAME.fullmatch(path.name))]
        except OSError as error:
            raise StoreUnavailable(f"can't use {directory} for catalog revisions: {error}") from error
        self._numbers = {match[2]: int(match[1]) for match in sorted(matches, key=lambda match: match[1])}

    async def put(self, snapshot: Snapshot) -> None:
        """Keeps ``snapshot`` as the newest, on disk when this returns; forgets the oldest beyond the bound."""
        async with self._lock:
            try:
                await asyncio.to_thread(self._put, snapshot)
            except OSError as error:
                raise StoreUnavailable(f"can't write catalog revision {snapshot.revision}: {error}") from error

    async def get(self, revision: str) -> Snapshot | None:
        """The revision of that name; None where it is not kept."""
        async with self._lock:
            number = self._numbers.get(revision)
            if number is None:
                return None
            return await asyncio.to_thread(self._read, self._path(number, revision))

    async def revisions(self) -> tuple[str, ...]:
        """The names of all that are kept, the newest last."""
        return tuple(self._numbers)

    def _put(self, snapshot: Snapshot) -> None:
        number = 1 + max(self._numbers.values(), default=0)
        target = self._path(number, snapshot.revision)
        kept = self._numbers.get(snapshot.revision)
        if kept is None:
            beside = target.with_suffix(".new")
            with beside.open("wb") as file:
                body = _SNAPSHOT.dump_json(snapshot)
                file.write(_checksum(body) + b"\n" + body)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(target)
        else:
            self._path(kept, snapshot.revision).replace(target)
            del self._numbers[snapshot.revision]
        self._numbers[snapshot.revision] = number
        while len(self._numbers) > self._keep:
            oldest = next(iter(self._numbers))
            self._path(self._numbers[oldest], oldest).unlink(missing_ok=True)
            del self._numbers[oldest]
        self._sync_directory()

    def _sync_directory(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _read(self, path: Path) -> Snapshot:
        try:
            checksum, _, body = path.read_bytes().partition(b"\n")
            if checksum != _checksum(body):
                raise StoreUnavailable(
                    f"catalog revision {path} is not what was written; move it away to go on without it"
                )
            snapshot: Snapshot = _SNAPSHOT.validate_json(body)
        except (OSError, ValidationError) as error:
            raise StoreUnavailable(f"can't read catalog revision {path}: {error}") from error
        return snapshot

    def _path(self, number: int, revision: str) -> Path:
        return self._directory / f"{number:010d}-{revision}.json"


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()
