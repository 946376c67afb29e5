"""The ledger on a database: one implementation for SQLite and PostgreSQL, through SQLAlchemy Core on async engines."""
