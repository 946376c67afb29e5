"""Brings a database to the newest revision. Runs on every start; one that is there already stays as it is."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from ledger_svc.store.database import Database

_LOCK = 0x7A11_6A7E
"""Names PostgreSQL's advisory lock of migrations: any number that nothing else takes."""


def alembic_config(connection: Connection) -> Config:
    """Alembic's configuration for the revisions inside this package, on a given connection."""
    config = Config()
    config.set_main_option("script_location", "ledger_svc.store:migrations")
    config.attributes["connection"] = connection
    return config


async def migrate(database: Database) -> None:
    """Upgrades in one transaction. Of replicas that start together one does it and the others wait."""
    await database.write(_upgrade)


def _upgrade(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    command.upgrade(alembic_config(connection), "head")
