"""What `tallygate verify` checks of any proof, whatever it is of: its form, and that its leaf stands in the log."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ledger_svc.domain.checkpoints import Statement, verify_checkpoint
from ledger_svc.domain.merkle import HASH_BYTES, leaf_hash, verify_consistency, verify_inclusion
from ledger_svc.domain.signing import JwsKind, PublicKeys, public_key_from_jwk
from tallygate_deploy.checking import Check, Passed, VerificationError


@dataclass(frozen=True, slots=True)
class ProofKind:
    """A kind of proof. ``name``: its part that names what is proved; ``path``: where it comes from; ``noun``: what
    is proved.
    """

    jws: JwsKind
    name: str
    path: str
    noun: str


KINDS = {
    "receipt_proof": ProofKind(JwsKind.RECEIPT, "receipt_id", "/v1/receipts/{id}/proof", "receipt"),
    "audit_proof": ProofKind(JwsKind.AUDIT_ENTRY, "entry_id", "/v1/audit-log/{id}/proof", "audit entry"),
}
"""By ``object``."""
_PARTS = {"object", "jws", "inclusion", "checkpoint", "jwks"}
_PROOF = {"first_size", "second_size", "hashes"}


def check_log(
    bundle: Mapping[str, Any], keys: PublicKeys, *, pinned: str | None, consistency: Mapping[str, Any] | None
) -> Iterator[Passed]:
    """That the leaf stands in the log at the checkpoint, and that the log grew from a pinned one, or to it."""
    noun = KINDS[bundle["object"]].noun
    inclusion, leaf = bundle["inclusion"], leaf_hash(bundle["jws"].encode())
    yield Passed("leaf hash", leaf.hex())
    with Check("checkpoint signature"):
        kid, statement = verify_checkpoint(bundle["checkpoint"], keys)
    yield Passed("checkpoint signature", f"{statement.origin} of {statement.size} leaves is signed with {kid}")
    with Check("inclusion"):
        index, size, hashes = inclusion["leaf_index"], inclusion["tree_size"], _hashes(inclusion["hashes"])
        if size != statement.size:
            raise ValueError(f"the proof is for {size} leaves, the checkpoint for {statement.size}")
        if not verify_inclusion(leaf, index, size, hashes, statement.root_hash):
            raise ValueError(f"the proof does not lead from this {noun} as leaf {index} to the checkpoint's root")
    yield Passed("inclusion", f"leaf {index} of {size}, by {len(hashes)} hashes")
    proof = consistency or bundle.get("consistency")
    if pinned is None:
        if proof is not None:
            raise VerificationError("consistency", "there is a consistency proof, but no --checkpoint that it is for")
        yield Passed("consistency", "no earlier checkpoint was given (--checkpoint)", made=False)
        return
    with Check("pinned checkpoint"):
        _, kept = verify_checkpoint(pinned, keys)
        if kept.origin != statement.origin:
            raise ValueError(f"it is of another log: {kept.origin}")
    with Check("consistency"):
        found = _check_consistency(kept, statement, proof, bundle["object"])
    yield Passed("consistency", found)


def _check_consistency(pinned: Statement, statement: Statement, proof: Mapping[str, Any] | None, kind: str) -> str:
    first, second = sorted((pinned, statement), key=lambda state: state.size)
    if proof is None:
        if first.size == second.size:
            proof = {"first_size": first.size, "second_size": second.size, "hashes": []}
        elif first.size == 0:
            return "the pinned checkpoint is of the empty log, which begins every log"
        else:
            raise ValueError(
                f"no proof from {first.size} to {second.size} leaves: "
                f"ask for {KINDS[kind].path.format(id='ID')}?since={pinned.size}"
            )
    sizes = (proof["first_size"], proof["second_size"])
    if sizes != (first.size, second.size):
        raise ValueError(f"the proof is from {sizes[0]} to {sizes[1]}, needed is {first.size} to {second.size}")
    if not verify_consistency(*sizes, first.root_hash, second.root_hash, _hashes(proof["hashes"])):
        raise ValueError(f"the log of {first.size} leaves is not the beginning of that of {second.size}: rewritten")
    return f"the pinned log of {pinned.size} leaves and this one of {statement.size} are one log"


def check_form(bundle: Any) -> ProofKind:
    """What kind of proof it is.

    Raises:
        ValueError: it is none, or has other parts.
    """
    kind = KINDS.get(str(bundle.get("object"))) if isinstance(bundle, dict) else None
    if kind is None:
        raise ValueError(f"not the answer of GET {' or GET '.join(known.path for known in KINDS.values())}")
    if bundle.keys() - {"consistency"} != _PARTS | {kind.name}:
        raise ValueError(f"its parts are {sorted(bundle)}, expected {sorted(_PARTS | {kind.name})}")
    if bundle["inclusion"].keys() != {"leaf_index", "tree_size", "hashes"} or bundle["jwks"].keys() != {"keys"}:
        raise ValueError("the inclusion proof or the keys have other parts than expected")
    for proof in (bundle.get("consistency"),) if "consistency" in bundle else ():
        check_proof_form(proof)
    numbers = (bundle["inclusion"]["leaf_index"], bundle["inclusion"]["tree_size"])
    if any(type(number) is not int for number in numbers):
        raise ValueError("sizes are integers")
    return kind


def check_proof_form(proof: Any) -> None:
    """Raises:
    ValueError: not a proof of consistency.
    """
    if proof.get("object") != "consistency_proof" or proof.keys() - {"object"} != _PROOF:
        raise ValueError("not the answer of GET /v1/log/consistency")
    if any(type(proof[name]) is not int for name in ("first_size", "second_size")):
        raise ValueError("sizes are integers")


def bundled_keys(bundle: Mapping[str, Any]) -> PublicKeys:
    """The keys that the proof carries, which prove nothing by themselves."""
    return dict(public_key_from_jwk(jwk) for jwk in bundle["jwks"]["keys"])


def origin_of(note: str) -> str:
    """Which log a checkpoint says that it is of."""
    return note.partition("\n")[0]


def _hashes(encoded: Any) -> list[bytes]:
    hashes = [base64.b64decode(text, validate=True) for text in encoded]
    if any(len(item) != HASH_BYTES for item in hashes) or [base64.b64encode(h).decode() for h in hashes] != encoded:
        raise ValueError("a hash is not 32 bytes in base64")
    return hashes
