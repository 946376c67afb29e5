"""The JSON of the audit trail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import orjson
from pydantic import Field

from edge.wire.account.base import Answer
from tallygate.common.v1 import actor_pb2
from tallygate.ledger.v1 import audit_pb2

_KINDS: Mapping[int, Literal["operator", "api_key", "system"]] = {
    actor_pb2.ACTOR_KIND_UNSPECIFIED: "operator",
    actor_pb2.ACTOR_KIND_OPERATOR: "operator",
    actor_pb2.ACTOR_KIND_API_KEY: "api_key",
    actor_pb2.ACTOR_KIND_SYSTEM: "system",
}

State = Mapping[str, Any]


class AuditActor(Answer):
    """Who changed something, and from where."""

    kind: Literal["operator", "api_key", "system"]
    id: str = Field(description="Of an API key: `key_...`. Of anything else a name, or empty.")
    address: str = Field(description="The client's IP address; empty: not known, or local.")
    trace_id: str = Field(description="The trace of the request, as in its `X-Trace-ID`; empty: none.")


class AuditEntry(Answer):
    """One change."""

    id: str = Field(examples=["aud_01kb2r4h6tj8m0n2p4q6s8v0x2"])
    object: Literal["audit_entry"] = "audit_entry"
    scope: Literal["organization", "installation"] = Field(
        description="What was changed: this organisation, or the whole installation, such as prices."
    )
    action: str = Field(description="The kind of thing and what happened to it.", examples=["key.created"])
    subject: str = Field(description="The id of the thing.")
    actor: AuditActor
    before: State = Field(description="What it was; empty: it was not there. Amounts are decimal strings.")
    after: State = Field(description="What it became; empty: it is no more. Amounts are decimal strings.")
    created_at: int = Field(description="Unix time in seconds.")

    @classmethod
    def of(cls, entry: audit_pb2.AuditEntry) -> AuditEntry:
        """As the ledger has it."""
        return cls(**entry_fields(entry))


class SignedAuditEntry(AuditEntry):
    """One change, as it is signed and stands in the log."""

    jws: str = Field(description="The entry as signed: a compact JWS over its RFC 8785 document.")
    leaf_index: int = Field(description="Its place in the log, from 0.")

    @classmethod
    def found(cls, answer: audit_pb2.GetAuditEntryResponse) -> SignedAuditEntry:
        """As the ledger has it."""
        return cls(**entry_fields(answer.entry), jws=answer.jws, leaf_index=answer.leaf_index)


class Inclusion(Answer):
    """The way from a leaf to the root of a checkpoint (RFC 9162, 2.1.3)."""

    leaf_index: int
    tree_size: int
    hashes: list[str] = Field(description="32 bytes each, in base64.")


class Consistency(Answer):
    """That the log only grew from one size to another (RFC 9162, 2.1.4)."""

    object: Literal["consistency_proof"] = "consistency_proof"
    first_size: int
    second_size: int
    hashes: list[str] = Field(description="32 bytes each, in base64.")


class Jwks(Answer):
    """The public keys of the log (RFC 7517, RFC 8037)."""

    keys: list[dict[str, str]]


class AuditProof(Answer):
    """All that `tallygate verify` needs: save it in a file."""

    object: Literal["audit_proof"] = "audit_proof"
    entry_id: str
    jws: str
    inclusion: Inclusion
    checkpoint: str = Field(description="A signed note with a checkpoint (c2sp.org/tlog-checkpoint).")
    jwks: Jwks
    consistency: Consistency | None = None


def entry_fields(entry: audit_pb2.AuditEntry) -> dict[str, Any]:
    """The fields of ``AuditEntry``, as JSON values."""
    actor = entry.actor
    return {
        "id": entry.entry_id,
        "object": "audit_entry",
        "scope": "organization" if entry.org_id else "installation",
        "action": entry.action,
        "subject": entry.subject,
        "actor": {
            "kind": _KINDS[actor.kind],
            "id": actor.id,
            "address": actor.address,
            "trace_id": actor.trace_id,
        },
        "before": orjson.loads(entry.before_json),
        "after": orjson.loads(entry.after_json),
        "created_at": entry.created_at_ms // 1_000,
    }


COLUMNS = (
    *("id", "created_at", "scope", "action", "subject"),
    *("actor_kind", "actor_id", "address", "trace_id", "before", "after"),
)
"""Of the CSV export."""


def entry_row(entry: audit_pb2.AuditEntry) -> dict[str, Any]:
    """The values of ``COLUMNS``."""
    fields = entry_fields(entry)
    actor = fields["actor"]
    flat = {"actor_kind": actor["kind"], "actor_id": actor["id"]}
    return fields | flat | {"address": actor["address"], "trace_id": actor["trace_id"]}
