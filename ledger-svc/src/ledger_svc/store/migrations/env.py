"""Alembic's entry: runs revisions on the connection that ``store.migrate`` hands over, in its transaction."""

from __future__ import annotations

from alembic import context

from ledger_svc.store.tables import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    render_as_batch=connection.dialect.name == "sqlite",
    transactional_ddl=True,  # on SQLite too: the transaction is begun explicitly
)
with context.begin_transaction():
    context.run_migrations()
