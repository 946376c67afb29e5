"""The JSON of an organisation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edge.wire.account.base import Answer
from tallygate.ledger.v1 import account_pb2


class Organization(Answer):
    """An organisation: whoever has the balance."""

    id: str = Field(examples=["org_01kb2r4h6tj8m0n2p4q6s8v0x2"])
    object: Literal["organization"] = "organization"
    name: str
    created_at: int = Field(description="Unix time in seconds.")

    @classmethod
    def of(cls, found: account_pb2.GetOrganizationResponse) -> Organization:
        """As the ledger has it."""
        return cls(id=found.org_id, name=found.name, created_at=found.created_at_ms // 1_000)
