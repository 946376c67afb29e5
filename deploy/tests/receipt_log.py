"""A log of receipts without a database, to be verified."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from edge.wire.log import audit_proof_json, proof_json
from ledger_svc.domain.charges import Attempt, ChargeFacts, Outcome, ServedMode, quote
from ledger_svc.domain.checkpoints import sign_checkpoint
from ledger_svc.domain.merkle import (
    Frontier,
    Range,
    consistency_ranges,
    inclusion_ranges,
    leaf_hash,
    perfect_root,
    perfect_subtrees,
    proof,
)
from ledger_svc.domain.receipts import Receipt, encode
from ledger_svc.domain.signing import JwsKind, Keyring, compact, load_private_key
from meshkit.money import BillingTier, PriceSnapshot, Provenance, Rates, RateTier, Usage
from tallygate.ledger.v1 import audit_pb2
from tallygate.ledger.v1 import ledger_pb2 as pb

ORIGIN = "example.com/tallygate"
PRICE = PriceSnapshot(
    "openai/gpt-x",
    BillingTier.PASSTHROUGH,
    (RateTier(0, Rates(input_pico_usd=150_000, output_pico_usd=600_000)), RateTier(128_000, Rates(input_pico_usd=9))),
    markup_bps=500,
    price_source="genai-prices",
    catalog_revision="rev1",
)
KEYS = Keyring({"2026-11": load_private_key("bm5u" * 10 + "bm4")})
OTHER_KEYS = Keyring({"2026-11": load_private_key("b25l" * 10 + "b24")})


def receipt(n: int, mode: ServedMode = ServedMode.FRESH, **change: Any) -> Receipt:
    facts = ChargeFacts(
        usage=Usage(input_tokens=101 + n, output_tokens=7, provenance=Provenance.PROVIDER),
        price=PRICE,
        served_mode=mode,
        outcome=Outcome.COMPLETE,
        requested_model="tallygate/fast",
        model="gpt-x",
        source_id="openai",
        upstream_model="gpt-x-2026",
        origin_receipt_id="" if mode is ServedMode.FRESH else "rcpt_0",
        trace_id="ab" * 16,
        request_digest="0" * 32 + ":" + "1" * 64,
    )
    owed = quote(facts)
    made = Receipt(
        receipt_id=f"rcpt_{n}",
        hold_id=f"hold_{n}",
        request_id=f"req_{n}",
        org_id="org_1",
        project_id="prj_1",
        key_id="key_1",
        facts=facts,
        held_nano_usd=10**6,
        charged_nano_usd=owed.due_nano_usd,
        saved_nano_usd=owed.saved_nano_usd,
        absorbed_nano_usd=0,
        attempts=(Attempt("openai/gpt-x", 1, 2, 200, won=True),),
        created_at_ms=1_750_000_000_000 + n,
    )
    return replace(made, **change)


@dataclass
class Log:
    """A log without a database: documents, signed."""

    documents: list[str]
    keys: Keyring = KEYS

    def kind(self, index: int) -> JwsKind:
        """Of a document: an audit entry's says an action."""
        return JwsKind.AUDIT_ENTRY if '"action":' in self.documents[index] else JwsKind.RECEIPT

    def jws(self, index: int, kind: JwsKind | None = None) -> str:
        document, kind = self.documents[index].encode(), kind or self.kind(index)
        return compact(self.keys.signing_kid, document, self.keys.seal(document, kind).signature, kind).decode()

    def _leaves(self, size: int) -> list[bytes]:
        return [leaf_hash(self.jws(index).encode()) for index in range(size)]

    def checkpoint(self, size: int) -> str:
        return sign_checkpoint(ORIGIN, Frontier().extended(self._leaves(size))[0], self.keys, 1).note

    def hashes(self, ranges: list[Range]) -> list[bytes]:
        leaves = self._leaves(len(self.documents))
        nodes = {node for leaf_range in ranges for node in perfect_subtrees(leaf_range)}
        return proof(ranges, {(at, i): perfect_root(leaves[i << at : (i + 1) << at]) for at, i in nodes})

    def consistency(self, first: int, second: int) -> pb.GetConsistencyProofResponse:
        hashes = self.hashes(consistency_ranges(first, second))
        return pb.GetConsistencyProofResponse(first_size=first, second_size=second, hashes=hashes)

    def listed(self) -> pb.ListSigningKeysResponse:
        keys = [pb.SigningKey(kid=kid, public_key=key.public_bytes_raw()) for kid, key in self.keys.public.items()]
        return pb.ListSigningKeysResponse(keys=keys)

    def bundle(self, index: int, size: int, *, since: int | None = None) -> dict[str, Any]:
        message = audit_pb2.GetAuditProofResponse if self.kind(index) is JwsKind.AUDIT_ENTRY else None
        found: Any = (message or pb.GetInclusionProofResponse)(
            jws=self.jws(index),
            leaf_index=index,
            tree_size=size,
            hashes=self.hashes(inclusion_ranges(index, size)),
            checkpoint=self.checkpoint(size),
        )
        grown = None if since is None else self.consistency(*sorted((since, size)))
        said = json.loads(self.documents[index])
        if message:
            return audit_proof_json(said["entry_id"], found, self.listed(), grown)
        return proof_json(said["receipt_id"], found, self.listed(), grown)


MODES = [ServedMode.FRESH, ServedMode.EXACT, ServedMode.SEMANTIC, ServedMode.FRESH, ServedMode.EXACT]
LOG = Log([encode(receipt(n, mode)) for n, mode in enumerate(MODES * 3)])
