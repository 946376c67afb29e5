"""Holds the rules of the ledger against a database, be it of a data folder or any other; reads only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ledger_svc.domain.signing import PublicKeys, load_private_key
from ledger_svc.store.check import Ruling, Terms, examine
from ledger_svc.store.reading import UnreadableError, read_only, shown
from tallygate_deploy.data_dir import DataDir, DataDirError
from tallygate_deploy.local_parts import postgres, running_postgres

__all__ = ["Ruling", "Subject", "UnreadableError", "check", "document", "shown", "subject"]

Tell = Callable[[Ruling], None]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is to be checked. ``swept``: a ledger runs on it, which ends holds. ``keys`` None: no signatures."""

    url: str
    swept: bool
    keys: PublicKeys | None


async def check(subject: Subject, *, now_ms: int, grace_s: float, tell: Tell = lambda _: None) -> list[Ruling]:
    """Every rule on one state of the database; ``tell`` gets each as it is decided, from any thread.

    Raises:
        UnreadableError: see ``read_only``.
    """
    overdue_before_ms = now_ms - round(1_000 * grace_s) if subject.swept else None
    terms = Terms(overdue_before_ms, subject.keys)

    def work(connection: Any) -> list[Ruling]:
        rulings = []
        for ruling in examine(connection, terms):
            tell(ruling)
            rulings.append(ruling)
        return rulings

    return await read_only(subject.url, work)


def document(url: str, rulings: list[Ruling]) -> dict[str, Any]:
    """The outcome for machines. ``breaks`` of a rule are its first ones, at most ten."""
    return {
        "database": url,
        "ok": all(ruling.holds for ruling in rulings),
        "rules": [
            {
                "rule": ruling.rule,
                "table": ruling.table,
                "checked": ruling.checked,
                "left_out": ruling.left_out,
                "breaks": [{"row": violation.where, "detail": violation.detail} for violation in ruling.breaks],
            }
            for ruling in rulings
        ],
    }


@asynccontextmanager
async def subject(
    folder: Path, database: str | None, *, swept: bool, pinned: PublicKeys | None
) -> AsyncIterator[Subject]:
    """The database named, or that of the folder. A mesh that is not running has its PostgreSQL started meanwhile.

    Raises:
        DataDirError, LocalPartError: there is no ledger in the folder, or it can't be reached.
    """
    if database is not None:
        yield Subject(database, swept, pinned)
        return
    if not folder.expanduser().is_dir():
        raise DataDirError(f"there is no folder {folder}: name one with --data, or a database with --database")
    data = DataDir(folder)
    keys = pinned if pinned is not None else _keys_of(data)
    served = data.is_served
    if data.mode != "mesh":
        yield Subject(f"sqlite:///{data.ledger_db}", served, keys)
    elif served:
        yield Subject(running_postgres(data.postgres), served, keys)
    else:
        with data.locked():
            async with postgres(data.postgres) as url:
                yield Subject(url, served, keys)


def _keys_of(data: DataDir) -> PublicKeys | None:
    if not data.signing_keys_file.exists():
        return None
    return {kid: load_private_key(seed).public_key() for kid, seed in data.signing_keys().items()}
