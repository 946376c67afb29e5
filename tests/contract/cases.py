"""One case for each RPC of each service: what a caller of the contract relies on, and a refusal where there is one."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import pytest

from meshkit.errors import MeshError, mesh_errors
from tallygate.common.v1 import money_pb2
from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.ledger.v1 import ledger_pb2
from tests.contract.world import World

TIMEOUT_S = 10.0
MODEL = "test/ok"
NANO = 1_000_000_000

Case = Callable[[World], Awaitable[None]]
CASES: dict[str, Case] = {}


def covers(method: str) -> Callable[[Case], Case]:
    """Registers a case for the RPC "Service/Method"."""

    def register(case: Case) -> Case:
        assert method not in CASES, f"{method} has a case already"
        CASES[method] = case
        return case

    return register


async def refused(call: Awaitable[object], reason: ErrorReason.ValueType) -> MeshError:
    """The call ends with ``reason``; gives the error for a closer look."""
    with pytest.raises(MeshError) as caught, mesh_errors():
        await call
    assert ErrorReason.Name(caught.value.reason) == ErrorReason.Name(reason)
    return caught.value


def body(**fields: object) -> bytes:
    """A request body that is eligible for the cache."""
    messages = [{"role": "user", "content": "contract"}]
    return json.dumps({"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 16} | fields).encode()


def price() -> money_pb2.PriceSnapshot:
    """1 USD per million tokens in, 2 out, no markup."""
    rates = money_pb2.Rates(input_pico_usd=1_000_000, output_pico_usd=2_000_000)
    return money_pb2.PriceSnapshot(
        offer_id=f"scripted/{MODEL}",
        tier=money_pb2.BILLING_TIER_PASSTHROUGH,
        rate_tiers=[money_pb2.RateTier(rates=rates)],
        replay_bps=2_500,
        price_source="operator",
        price_version="1",
        price_date="2026-01-01",
    )


def facts(mode: ledger_pb2.ServedMode.ValueType = ledger_pb2.SERVED_MODE_FRESH) -> ledger_pb2.ChargeFacts:
    """100 tokens in and 50 out: 200,000 nano-USD fresh, 50,000 as a replay."""
    return ledger_pb2.ChargeFacts(
        usage=money_pb2.Usage(input_tokens=100, output_tokens=50, provenance=money_pb2.USAGE_PROVENANCE_PROVIDER),
        price=price(),
        served_mode=mode,
        outcome=ledger_pb2.OUTCOME_COMPLETE,
        requested_model=MODEL,
        model=MODEL,
        source_id="scripted",
        upstream_model="ok",
        origin_receipt_id="" if mode == ledger_pb2.SERVED_MODE_FRESH else "rcpt_origin",
    )


FRESH_NANO_USD, REPLAY_NANO_USD = 200_000, 50_000


def hold(world: World, amount_nano_usd: int = 1_000_000) -> ledger_pb2.ReserveRequest:
    """A hold of its own request."""
    return ledger_pb2.ReserveRequest(
        principal=world.principal,
        request_id=world.request_id(),
        amount_nano_usd=amount_nano_usd,
        ttl_ms=60_000,
        model=MODEL,
    )


async def new_key(world: World) -> ledger_pb2.CreateKeyResponse:
    return await world.ledger.CreateKey(
        ledger_pb2.CreateKeyRequest(org_id=world.org_id, project_id=world.project_id, name="case"), timeout=TIMEOUT_S
    )
