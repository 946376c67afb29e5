"""Failures of the database that pass, told from bugs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from ledger_svc.domain.errors import LedgerUnavailable

_RETRIED_CLASSES = ("08", "40", "57")  # connection lost; rolled back for another's sake; the server is going away
_PASSING_CLASSES = (*_RETRIED_CLASSES, "53", "55P03")  # and: out of connections, memory or disk; a lock was not had

_PASSING_SQLITE = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_CANTOPEN", "SQLITE_FULL", "SQLITE_IOERR")


def is_worth_another_try(error: BaseException | None) -> bool:
    """Whether the same transaction may go through if it is run again at once."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, ConnectionError)
    return error.connection_invalidated or _sqlstate(error).startswith(_RETRIED_CLASSES)


def is_passing(error: Exception) -> bool:
    """Whether the failure is not the statement's: the same transaction may go through later."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, OSError | PoolTimeoutError)
    return (
        is_worth_another_try(error)
        or _sqlstate(error).startswith(_PASSING_CLASSES)
        or getattr(error.orig, "sqlite_errorname", "").startswith(_PASSING_SQLITE)
    )


@contextmanager
def database_failures() -> Iterator[None]:
    """Raises ``LedgerUnavailable`` for a failure that passes, with that as its cause."""
    try:
        yield
    except (DBAPIError, PoolTimeoutError, OSError) as error:
        if is_passing(error):
            raise LedgerUnavailable("the ledger's database can't be reached or is too busy") from error
        raise


def _sqlstate(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""
