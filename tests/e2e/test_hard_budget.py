"""The hard cap, from outside: more requests at once than a balance affords."""

from __future__ import annotations

import asyncio
from collections import Counter

import httpx

from tests.harness.gateway import Gateway

REQUESTS, AFFORDABLE = 200, 50
PRICE_NANO_USD = 10_500_000  # test/per-call: one cent and the markup of 5%, whatever is said


async def test_200_at_once_on_a_balance_for_50(gateway: Gateway) -> None:
    tenant = await asyncio.to_thread(gateway.tenants.make, AFFORDABLE * PRICE_NANO_USD)
    limits = httpx.Limits(max_connections=REQUESTS)
    headers = {"Authorization": f"Bearer {tenant.secret}"}
    async with httpx.AsyncClient(base_url=gateway.base_url, headers=headers, limits=limits, timeout=60) as client:

        async def one(number: int) -> int:
            message = {"role": "user", "content": f"request {number}"}
            response = await client.post("/chat/completions", json={"model": "test/per-call", "messages": [message]})
            return response.status_code

        statuses = Counter(await asyncio.gather(*(one(number) for number in range(REQUESTS))))
    assert statuses == {200: AFFORDABLE, 402: REQUESTS - AFFORDABLE}
    assert len(gateway.upstream.calls) == AFFORDABLE
    balance = await asyncio.to_thread(gateway.tenants.balance, tenant.org_id)
    assert (balance.posted_nano_usd, balance.held_nano_usd, balance.open_holds) == (0, 0, 0)
    receipts = await asyncio.to_thread(gateway.tenants.receipts, tenant.org_id)
    assert {receipt.charged_nano_usd for receipt in receipts} == {PRICE_NANO_USD}
    assert len(receipts) == AFFORDABLE
