"""What all tables are made with: their metadata, and the types of their columns."""

from __future__ import annotations

from typing import Any, cast

from sqlalchemy import BigInteger, LargeBinary, MetaData, Table, Text
from sqlmodel import Field, SQLModel

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class Row(SQLModel):
    """Base of all tables, with the ledger's own metadata."""

    metadata = metadata


def text_column(**options: Any) -> Any:
    """A text."""
    return Field(sa_type=Text, **options)


def bigint_column(**options: Any) -> Any:
    """A 64 bit integer."""
    return Field(sa_type=BigInteger, **options)


def binary_column(**options: Any) -> Any:
    """Bytes."""
    return Field(sa_type=LargeBinary, **options)


def table_of(row: type[Row]) -> Table:
    """The table of a row."""
    return cast(Table, row.__table__)  # type: ignore[attr-defined]
