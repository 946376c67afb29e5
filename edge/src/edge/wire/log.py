"""Proofs and keys of the receipt log as JSON. Hashes are base64, as in a checkpoint; keys are JWKs (RFC 8037)."""

from __future__ import annotations

import base64
from typing import Any

from tallygate.ledger.v1 import audit_pb2, ledger_pb2


def proof_json(
    receipt_id: str,
    found: ledger_pb2.GetInclusionProofResponse,
    keys: ledger_pb2.ListSigningKeysResponse,
    consistency: ledger_pb2.GetConsistencyProofResponse | None,
) -> dict[str, Any]:
    """All that `tallygate verify` needs of a receipt, in one object."""
    return _bundle({"object": "receipt_proof", "receipt_id": receipt_id}, found, keys, consistency)


def audit_proof_json(
    entry_id: str,
    found: audit_pb2.GetAuditProofResponse,
    keys: ledger_pb2.ListSigningKeysResponse,
    consistency: ledger_pb2.GetConsistencyProofResponse | None,
) -> dict[str, Any]:
    """All that `tallygate verify` needs of an audit entry, in one object."""
    return _bundle({"object": "audit_proof", "entry_id": entry_id}, found, keys, consistency)


def _bundle(
    name: dict[str, Any],
    found: ledger_pb2.GetInclusionProofResponse | audit_pb2.GetAuditProofResponse,
    keys: ledger_pb2.ListSigningKeysResponse,
    consistency: ledger_pb2.GetConsistencyProofResponse | None,
) -> dict[str, Any]:
    bundle: dict[str, Any] = {
        **name,
        "jws": found.jws,
        "inclusion": {
            "leaf_index": found.leaf_index,
            "tree_size": found.tree_size,
            "hashes": _hashes(found.hashes),
        },
        "checkpoint": found.checkpoint,
        "jwks": jwks_json(keys),
    }
    if consistency is not None:
        bundle["consistency"] = consistency_json(consistency)
    return bundle


def consistency_json(found: ledger_pb2.GetConsistencyProofResponse) -> dict[str, Any]:
    """That the log at one size begins the log at another."""
    return {
        "object": "consistency_proof",
        "first_size": found.first_size,
        "second_size": found.second_size,
        "hashes": _hashes(found.hashes),
    }


def jwks_json(listed: ledger_pb2.ListSigningKeysResponse) -> dict[str, Any]:
    """The public keys, the current one first."""
    return {
        "keys": [
            {
                "kty": "OKP",
                "crv": "Ed25519",
                "kid": key.kid,
                "x": base64.urlsafe_b64encode(key.public_key).rstrip(b"=").decode(),
                "alg": "EdDSA",
                "use": "sig",
            }
            for key in listed.keys
        ]
    }


def _hashes(hashes: Any) -> list[str]:
    return [base64.b64encode(item).decode() for item in hashes]
