"""The hard cap, from outside: more requests at once than a balance, or a cap, affords."""

from __future__ import annotations

import asyncio
from collections import Counter

import httpx

from tests.harness.gateway import Gateway

REQUESTS, AFFORDABLE = 200, 50
PRICE_NANO_USD = 10_500_000  # test/per-call: one cent and the markup of 5%, whatever is said


async def statuses_of_many(gateway: Gateway, secret: str) -> Counter[tuple[int, str]]:
    """Sends all at once; counts status and error code."""
    limits = httpx.Limits(max_connections=REQUESTS)
    headers = {"Authorization": f"Bearer {secret}"}
    async with httpx.AsyncClient(base_url=gateway.base_url, headers=headers, limits=limits, timeout=60) as client:

        async def one(number: int) -> tuple[int, str]:
            message = {"role": "user", "content": f"request {number}"}
            response = await client.post("/chat/completions", json={"model": "test/per-call", "messages": [message]})
            return response.status_code, response.json().get("error", {}).get("code", "")

        return Counter(await asyncio.gather(*(one(number) for number in range(REQUESTS))))


async def test_200_at_once_on_a_balance_for_50(gateway: Gateway) -> None:
    tenant = await asyncio.to_thread(gateway.tenants.make, AFFORDABLE * PRICE_NANO_USD)
    statuses = await statuses_of_many(gateway, tenant.secret)
    assert statuses == {(200, ""): AFFORDABLE, (402, "insufficient_balance"): REQUESTS - AFFORDABLE}
    assert len(gateway.upstream.calls) == AFFORDABLE
    balance = await asyncio.to_thread(gateway.tenants.balance, tenant.org_id)
    assert (balance.posted_nano_usd, balance.held_nano_usd, balance.open_holds) == (0, 0, 0)
    receipts = await asyncio.to_thread(gateway.tenants.receipts, tenant.org_id)
    assert {receipt.charged_nano_usd for receipt in receipts} == {PRICE_NANO_USD}
    assert len(receipts) == AFFORDABLE


async def test_200_at_once_on_a_daily_cap_for_50(gateway: Gateway) -> None:
    tenant = await asyncio.to_thread(gateway.tenants.make, 10 * REQUESTS * PRICE_NANO_USD)
    await asyncio.to_thread(gateway.tenants.cap, tenant, AFFORDABLE * PRICE_NANO_USD)
    statuses = await statuses_of_many(gateway, tenant.secret)
    assert statuses == {(200, ""): AFFORDABLE, (429, "daily_cap_exceeded"): REQUESTS - AFFORDABLE}
    assert len(gateway.upstream.calls) == AFFORDABLE
    balance = await asyncio.to_thread(gateway.tenants.balance, tenant.org_id)
    assert (balance.held_nano_usd, balance.open_holds) == (0, 0)
