"""Secrets that must be read again: the data keys of organisations, and the provider keys that are sealed under them."""

from __future__ import annotations

from sqlalchemy import Index, text

from ledger_svc.store.tables.row import Row, bigint_column, table_of, text_column

_IN_FORCE = text("revoked_at_ms = 0")


class DataKeyRow(Row, table=True):
    """The data key of an organisation, wrapped under a key-encryption key (see ``domain.envelope``). ``kid`` names that
    key, as ``wrapped`` does.
    """

    __tablename__ = "data_key"
    __table_args__ = (Index("ix_data_key_kid", "kid"),)

    org_id: str = text_column(primary_key=True, foreign_key="org.org_id")
    data_key_id: str = text_column()
    kid: str = text_column()
    wrapped: str = text_column()
    created_at_ms: int = bigint_column()


class ProviderKeyRow(Row, table=True):
    """A provider key. ``sealed`` is its secret, encrypted, and empty once it is revoked; ``fallback`` is 0 or 1;
    ``changed_at_ms`` the newest of the other times.
    """

    __tablename__ = "provider_key"
    __table_args__ = (
        Index(
            "uq_provider_key_in_force_org_id_source_id",
            "org_id",
            "source_id",
            unique=True,
            postgresql_where=_IN_FORCE,
            sqlite_where=_IN_FORCE,
        ),
        Index("ix_provider_key_org_id_created_at_ms_provider_key_id", "org_id", "created_at_ms", "provider_key_id"),
        Index("ix_provider_key_changed_at_ms", "changed_at_ms"),
    )

    provider_key_id: str = text_column(primary_key=True)
    org_id: str = text_column(foreign_key="org.org_id")
    source_id: str = text_column()
    name: str = text_column()
    hint: str = text_column()
    fallback: int = bigint_column()
    sealed: str = text_column()
    created_at_ms: int = bigint_column()
    rotated_at_ms: int = bigint_column()
    revoked_at_ms: int = bigint_column()
    changed_at_ms: int = bigint_column()


DATA_KEY = table_of(DataKeyRow)
PROVIDER_KEY = table_of(ProviderKeyRow)
