"""The JSON of a provider key. Its secret comes in and never goes out."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr

from edge.wire.account.base import Answer, Body
from tallygate.ledger.v1 import provider_keys_pb2

ProviderSecret = Annotated[
    SecretStr,
    Field(
        min_length=8,
        max_length=512,
        description="The key as the source gave it, without `Bearer`: printable ASCII without spaces. It is stored "
        "encrypted and never shown again.",
    ),
]


class NewProviderKey(Body):
    """A key that the organisation has at a source."""

    source: str = Field(
        min_length=1,
        max_length=200,
        description="The source that the key is for, by its id in the catalog.",
        examples=["openai"],
    )
    name: str = Field(min_length=1, max_length=100, description="For people.", examples=["production"])
    secret: ProviderSecret
    fallback: bool = Field(
        default=True,
        description="Where the source fails or says that it is called too often, other sources may answer with the "
        "operator's key, at their price. False: such requests fail.",
    )


class RotatedProviderKey(Body):
    """Another secret for a provider key."""

    secret: ProviderSecret


class ProviderKey(Answer):
    """A provider key, without its secret."""

    id: str = Field(examples=["pk_01kb2r4h6tj8m0n2p4q6s8v0x2"])
    object: Literal["provider_key"] = "provider_key"
    source: str = Field(examples=["openai"])
    name: str
    hint: str = Field(description="How the secret ends.", examples=["...abcd"])
    fallback: bool = Field(description="Whether other sources may answer with the operator's key where this one fails.")
    created_at: int = Field(description="Unix time in seconds.")
    rotated_at: int | None = Field(description="When its secret was replaced last; null: never.")
    revoked_at: int | None = Field(description="When it was revoked; null: it is in force.")
    status: Literal["active", "revoked"]

    @classmethod
    def of(cls, key: provider_keys_pb2.ProviderKey) -> ProviderKey:
        """As the ledger has it."""
        return cls(
            id=key.provider_key_id,
            source=key.source_id,
            name=key.name,
            hint=key.hint,
            fallback=key.fallback,
            created_at=key.created_at_ms // 1_000,
            rotated_at=key.rotated_at_ms // 1_000 or None,
            revoked_at=key.revoked_at_ms // 1_000 or None,
            status="revoked" if key.revoked_at_ms else "active",
        )
