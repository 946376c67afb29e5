"""Receipts as JSON."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from edge.clients import GrpcLedger
from edge.wire.receipts import receipt_json
from tallygate.common.v1 import money_pb2
from tallygate.ledger.v1 import ledger_pb2


@pytest.fixture
def receipt() -> ledger_pb2.Receipt:
    rates = money_pb2.Rates(input_pico_usd=150_000, output_pico_usd=600_000, call_pico_usd=1)
    return ledger_pb2.Receipt(
        receipt_id="rcpt_1",
        request_id="req_1",
        org_id="org_1",
        project_id="prj_1",
        key_id="key_1",
        facts=ledger_pb2.ChargeFacts(
            usage=money_pb2.Usage(input_tokens=7, output_tokens=5, provenance=money_pb2.USAGE_PROVENANCE_ESTIMATED),
            price=money_pb2.PriceSnapshot(
                offer_id="openai/gpt-4o-mini",
                tier=money_pb2.BILLING_TIER_PASSTHROUGH,
                rate_tiers=[money_pb2.RateTier(rates=rates), money_pb2.RateTier(above_input_tokens=200_000)],
                markup_bps=500,
                replay_bps=2_500,
                price_source="genai-prices",
                price_version="0.2.3",
                price_date="2026-11-01",
                catalog_revision="rev1",
            ),
            served_mode=ledger_pb2.SERVED_MODE_FRESH,
            outcome=ledger_pb2.OUTCOME_CLIENT_GONE,
            requested_model="tallygate/fast",
            model="gpt-4o-mini",
            source_id="openai",
            upstream_model="gpt-4o-mini-2024-07-18",
            trace_id="ab" * 16,
        ),
        held_nano_usd=2_500_000_000,
        charged_nano_usd=4_255,
        absorbed_nano_usd=1,
        attempts=[
            ledger_pb2.Attempt(offer_id="a", started_at_ms=1_750_000_000_001, duration_ms=12, failure="connect"),
            ledger_pb2.Attempt(
                offer_id="b", started_at_ms=1_750_000_000_020, duration_ms=900, http_status=200, won=True
            ),
        ],
        created_at_ms=1_750_000_001_000,
    )


RATES = {
    "input_tokens": "0.15",
    "cached_input_tokens": "0",
    "cache_write_tokens": "0",
    "output_tokens": "0.6",
    "reasoning_tokens": "0",
    "images": "0",
    "seconds": "0",
    "calls": "0.000001",
}

RECEIPT_JSON = {
    "object": "receipt",
    "receipt_id": "rcpt_1",
    "request_id": "req_1",
    "trace_id": "ab" * 16,
    "org_id": "org_1",
    "project_id": "prj_1",
    "key_id": "key_1",
    "created_at": "2025-06-15T15:06:41.000Z",
    "started_at": None,
    "served_mode": "fresh",
    "outcome": "client_gone",
    "requested_model": "tallygate/fast",
    "model": "gpt-4o-mini",
    "source_id": "openai",
    "upstream_model": "gpt-4o-mini-2024-07-18",
    "origin_receipt_id": None,
    "request_digest": None,
    "answer_digest": None,
    "tags": {},
    "usage": {
        "input_tokens": 7,
        "cached_input_tokens": 0,
        "cache_write_tokens": 0,
        "output_tokens": 5,
        "reasoning_tokens": 0,
        "images": 0,
        "seconds": 0,
        "calls": 0,
        "provenance": "estimated",
    },
    "price": {
        "offer_id": "openai/gpt-4o-mini",
        "tier": "passthrough",
        "rate_tiers": [
            {"above_input_tokens": 0, "usd_per_million": RATES},
            {"above_input_tokens": 200_000, "usd_per_million": dict.fromkeys(RATES, "0")},
        ],
        "markup_bps": 500,
        "replay_bps": 2_500,
        "price_source": "genai-prices",
        "price_version": "0.2.3",
        "price_date": "2026-11-01",
        "catalog_revision": "rev1",
    },
    "held_usd": "2.5",
    "charged_usd": "0.000004255",
    "saved_usd": "0",
    "absorbed_usd": "0.000000001",
    "attempts": [
        {
            "offer_id": "a",
            "started_at": "2025-06-15T15:06:40.001Z",
            "duration_ms": 12,
            "http_status": None,
            "won": False,
            "failure": "connect",
        },
        {
            "offer_id": "b",
            "started_at": "2025-06-15T15:06:40.020Z",
            "duration_ms": 900,
            "http_status": 200,
            "won": True,
            "failure": None,
        },
    ],
}


async def test_a_receipt_has_every_field(world: Any, receipt: ledger_pb2.Receipt) -> None:
    world.ledger.receipts["org_1", "rcpt_1"] = receipt
    response = await world.client.get("/v1/receipts/rcpt_1")
    assert response.status_code == 200
    assert response.json() == RECEIPT_JSON | {"corrected_usd": "0", "jws": "a.b.c"}


def test_no_field_of_the_contract_is_left_out(receipt: ledger_pb2.Receipt) -> None:
    shown = receipt_json(receipt)
    renamed = {
        "facts": "served_mode",
        "created_at_ms": "created_at",
        "started_at_ms": "started_at",
        **{f"{name}_nano_usd": f"{name}_usd" for name in ("held", "charged", "saved", "absorbed")},
    }
    for message in (receipt, receipt.facts):
        for field in message.DESCRIPTOR.fields:
            assert renamed.get(field.name, field.name) in shown


def test_a_value_of_a_newer_contract_is_shown_as_unknown(receipt: ledger_pb2.Receipt) -> None:
    receipt.facts.served_mode = ledger_pb2.ServedMode.ValueType(77)
    assert receipt_json(receipt)["served_mode"] == "unknown"


@pytest.mark.parametrize("receipt_id", ["rcpt_1", "rcpt_2", "x" * 5_000])
async def test_a_receipt_of_another_organisation_is_not_there(
    world: Any, receipt: ledger_pb2.Receipt, receipt_id: str
) -> None:
    world.ledger.receipts["org_2", "rcpt_1"] = receipt
    response = await world.client.get(f"/api/v1/receipts/{receipt_id}")
    assert response.status_code == 404
    error = response.json()["error"]
    assert error["code"] == "not_found"
    assert len(error["message"]) < 200


async def test_no_receipt_is_read_for_an_empty_organisation(world: Any, receipt: ledger_pb2.Receipt) -> None:
    """To the ledger it is the operator, who reads all of them."""
    world.ledger.receipts[("", "rcpt_1")] = receipt
    channel = grpc.aio.insecure_channel("unix:///nowhere")
    ledger = GrpcLedger(channel, timeout_s=1, watch_timeout_s=1, charge_patience_s=1)
    with pytest.raises(ValueError, match="empty organisation"):
        await ledger.receipt("", "rcpt_1")
    await channel.close()
    (principal,) = world.ledger.principals.values()
    principal.org_id = ""
    response = await world.client.get("/v1/receipts/rcpt_1")
    assert response.status_code == 500
    assert "rcpt_1" not in response.text
