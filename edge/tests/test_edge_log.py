"""The log over REST: proofs for those whose receipts they are, checkpoints and keys for everybody."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from tallygate.ledger.v1 import ledger_pb2

ONES, ZEROS = base64.b64encode(b"\xff" * 32).decode(), base64.b64encode(bytes(32)).decode()
JWKS = {
    "keys": [
        {"kty": "OKP", "crv": "Ed25519", "kid": "new", "x": "-_v7" * 10 + "-_s", "alg": "EdDSA", "use": "sig"},
        {"kty": "OKP", "crv": "Ed25519", "kid": "old", "x": "A" * 43, "alg": "EdDSA", "use": "sig"},
    ]
}
PROOF = {
    "object": "receipt_proof",
    "receipt_id": "rcpt_1",
    "jws": "a.b.c",
    "inclusion": {"leaf_index": 4, "tree_size": 7, "hashes": [ONES]},
    "checkpoint": "note\n",
    "jwks": JWKS,
}


def consistency(first: int, second: int) -> dict[str, Any]:
    return {"object": "consistency_proof", "first_size": first, "second_size": second, "hashes": [ZEROS]}


@pytest.fixture
def receipt(world: Any) -> None:
    world.ledger.receipts["org_1", "rcpt_1"] = ledger_pb2.Receipt(receipt_id="rcpt_1")
    world.ledger.receipts["org_2", "rcpt_2"] = ledger_pb2.Receipt(receipt_id="rcpt_2")


@pytest.mark.parametrize("prefix", ["/v1", "/api/v1"])
async def test_a_proof_has_all_that_a_verifier_needs(world: Any, receipt: None, prefix: str) -> None:
    response = await world.client.get(f"{prefix}/receipts/rcpt_1/proof")
    assert (response.status_code, response.json()) == (200, PROOF)


async def test_a_proof_may_lead_from_a_pinned_checkpoint_in_either_direction(world: Any, receipt: None) -> None:
    grown = await world.client.get("/v1/receipts/rcpt_1/proof?since=3")
    assert grown.json() == PROOF | {"consistency": consistency(3, 7)}
    older = await world.client.get("/v1/receipts/rcpt_1/proof?since=7&tree_size=5")
    assert older.json()["inclusion"]["tree_size"] == 5
    assert older.json()["consistency"] == consistency(5, 7)


async def test_a_proof_is_for_those_whose_receipt_it_is(world: Any, receipt: None) -> None:
    foreign = await world.client.get("/v1/receipts/rcpt_2/proof")
    assert (foreign.status_code, foreign.json()["error"]["code"]) == (404, "not_found")
    stranger = await world.client.get("/v1/receipts/rcpt_1/proof", headers={"authorization": "Bearer tg-none"})
    assert stranger.status_code == 401


async def test_the_log_and_its_keys_are_public(world: Any) -> None:
    world.client.headers.pop("authorization")
    newest = await world.client.get("/v1/log/checkpoint")
    assert (newest.status_code, newest.text) == (200, "log\n7\n\n\u2014 log x\n")
    assert newest.headers["content-type"] == "text/plain; charset=utf-8"
    assert (await world.client.get("/v1/log/checkpoint?tree_size=5")).text.startswith("log\n5\n")
    assert (await world.client.get("/v1/log/consistency?first=3")).json() == consistency(3, 7)
    assert (await world.client.get("/v1/log/consistency?first=3&second=6")).json() == consistency(3, 6)
    keys = await world.client.get("/.well-known/jwks.json")
    assert (keys.status_code, keys.json()) == (200, JWKS)
    assert world.ledger.authenticated == 0


@pytest.mark.parametrize(
    ("path", "status", "param"),
    [
        ("/v1/log/checkpoint?tree_size=8", 404, None),
        ("/v1/log/checkpoint?tree_size=-1", 400, "tree_size"),
        ("/v1/log/checkpoint?tree_size=9007199254740992", 400, "tree_size"),
        ("/v1/log/consistency", 400, "first"),
        ("/v1/log/consistency?first=", 400, "first"),
        ("/v1/log/consistency?first=1&second=%D9%A1", 400, "second"),
        ("/v1/log/consistency?first=1&second=8", 400, "second_size"),
        ("/v1/receipts/rcpt_1/proof?since=x", 400, "since"),
    ],
)
async def test_a_size_that_makes_no_sense_is_refused(
    world: Any, receipt: None, path: str, status: int, param: str | None
) -> None:
    response = await world.client.get(path)
    assert response.status_code == status
    assert response.json()["error"]["param"] == param
