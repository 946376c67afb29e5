"""Organisations, projects, keys, and the audit trail of their changes."""

from __future__ import annotations

from sqlalchemy import Index, UniqueConstraint, text

from ledger_svc.store.tables.row import Row, bigint_column, table_of, text_column


class OrgRow(Row, table=True):
    """An organisation. ``cache_policy`` is a JSON object (see ``domain.cache_policies``). ``change_seq``: the number of
    the last change that its keys inherit, counted with those of keys; 0: none.
    """

    __tablename__ = "org"
    __table_args__ = (
        Index(
            "ix_org_change_seq",
            "change_seq",
            unique=True,
            postgresql_where=text("change_seq > 0"),
            sqlite_where=text("change_seq > 0"),
        ),
    )

    org_id: str = text_column(primary_key=True)
    name: str = text_column()
    created_at_ms: int = bigint_column()
    cache_policy: str = text_column(sa_column_kwargs={"server_default": "{}"})
    change_seq: int = bigint_column(sa_column_kwargs={"server_default": "0"})


class ProjectRow(Row, table=True):
    """A project of an organisation. ``cache_policy``: as an organisation's."""

    __tablename__ = "project"
    __table_args__ = (UniqueConstraint("org_id", "name"),)

    project_id: str = text_column(primary_key=True)
    org_id: str = text_column(foreign_key="org.org_id")
    name: str = text_column()
    created_at_ms: int = bigint_column()
    cache_policy: str = text_column(sa_column_kwargs={"server_default": "{}"})


class ApiKeyRow(Row, table=True):
    """An API key, without its secrets. ``allowed_models`` is a JSON array, ``policy`` a JSON object (see
    ``domain.policies``), ``cache_policy`` as an organisation's. ``change_seq``: the number of the last change of this
    key, counted over all keys and organisations in the order of their commits; 0: none since it was made.
    """

    __tablename__ = "api_key"
    __table_args__ = (
        Index("ix_api_key_org_id_created_at_ms", "org_id", "created_at_ms"),
        Index(
            "ix_api_key_change_seq",
            "change_seq",
            unique=True,
            postgresql_where=text("change_seq > 0"),
            sqlite_where=text("change_seq > 0"),
        ),
    )

    key_id: str = text_column(primary_key=True)
    org_id: str = text_column(foreign_key="org.org_id")
    project_id: str = text_column(foreign_key="project.project_id")
    name: str = text_column()
    prefix: str = text_column()
    allowed_models: str = text_column()
    created_at_ms: int = bigint_column()
    expires_at_ms: int = bigint_column()
    revoked_at_ms: int = bigint_column()
    policy: str = text_column(sa_column_kwargs={"server_default": "{}"})
    change_seq: int = bigint_column(sa_column_kwargs={"server_default": "0"})
    cache_policy: str = text_column(sa_column_kwargs={"server_default": "{}"})


class KeySecretRow(Row, table=True):
    """A keyed hash of a secret of a key, never the secret; see ``domain.keys.KeySecret``. Only its end may change, to
    an earlier one.
    """

    __tablename__ = "key_secret"
    __table_args__ = (Index("ix_key_secret_key_id", "key_id"),)

    hmac_sha256_hex: str = text_column(primary_key=True)
    pepper_version: int = bigint_column()
    key_id: str = text_column(foreign_key="api_key.key_id")
    created_at_ms: int = bigint_column()
    expires_at_ms: int = bigint_column()


class AuditLogRow(Row, table=True):
    """An entry of the audit trail: its document (RFC 8785 JSON) and the columns to find it by. Immutable. ``org_id``
    is empty where the whole installation was changed.
    """

    __tablename__ = "audit_log"
    __table_args__ = (
        Index("ix_audit_log_org_id_created_at_ms_entry_id", "org_id", "created_at_ms", "entry_id"),
        Index("ix_audit_log_created_at_ms_entry_id", "created_at_ms", "entry_id"),
    )

    entry_id: str = text_column(primary_key=True)
    org_id: str = text_column()
    created_at_ms: int = bigint_column()
    actor_kind: str = text_column()
    actor_id: str = text_column()
    action: str = text_column()
    subject: str = text_column()
    document: str = text_column()


ORG = table_of(OrgRow)
PROJECT = table_of(ProjectRow)
API_KEY = table_of(ApiKeyRow)
KEY_SECRET = table_of(KeySecretRow)
AUDIT_LOG = table_of(AuditLogRow)
