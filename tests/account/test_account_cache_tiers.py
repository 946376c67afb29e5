"""The upper tiers of the cache from a header to a receipt: through edge, cache, router and ledger."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from meshkit.money import parse_usd
from tests.account.installation import MODEL, Installation, Tenant, installed
from tests.upstream.behaviour import Behaviour

pytestmark = pytest.mark.asyncio(loop_scope="module")

CAPITAL = "What is the capital of France?"
ASKED = "who answers {} boats concerning garden {} repairs, painting, varnish, {} and delivery"
WORDS = (
    "museum furniture cushions", "vineyard gazebo carpets", "village pergola towels", "abbey lounger blankets",
    "temple stool parasols", "bakery decking rugs", "orchard trellis ropes", "harbour hammock covers",
    "brewery fence curtains", "theatre swing canvas", "castle bench fabrics", "library greenhouse sheets",
    "gallery chair pillows",
)  # fmt: skip
FEWEST = 5
"""Comparisons after which a bound of a half may be proven, at the earliest."""


async def ask(client: httpx.AsyncClient, text: str, header: str = "", **fields: Any) -> httpx.Response:
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 16}
    headers = {"x-tallygate-cache": header} if header else {}
    return await client.post("/v1/chat/completions", json=body | fields, headers=headers)


async def served(client: httpx.AsyncClient, text: str, header: str = "", **fields: Any) -> str:
    answer = await ask(client, text, header, **fields)
    assert answer.status_code == 200, answer.text
    return str(answer.headers["x-served-mode"])


async def permit(tenant: Tenant, **policy: Any) -> None:
    assert (await tenant.http.patch("/v1/organization/cache", json=policy)).status_code == 200


async def receipt_of(client: httpx.AsyncClient, answer: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get(f"/v1/receipts/{answer.headers['x-receipt-id']}")).json()
    return found


async def test_the_same_question_in_other_words_is_replayed_where_the_policy_lets_it(tenant: Tenant) -> None:
    beyond = await ask(tenant.chatting, CAPITAL, "canonical")
    assert (beyond.status_code, "up_to" in beyond.text) == (403, True)
    await permit(tenant, up_to="canonical")
    origin = await ask(tenant.chatting, CAPITAL)
    assert origin.headers["x-served-mode"] == "fresh"
    for text in (
        "What is the capital of Spain?",
        "What isn't the capital of France?",
        "What was the capital of France?",
    ):
        assert await served(tenant.chatting, text) == "fresh"
    polite = "Please, what is the capital of France?"
    assert await served(tenant.chatting, polite, "exact, refresh") == "fresh"
    assert await served(tenant.chatting, f"Hello! {CAPITAL}", seed=7) == "fresh"
    replay = await ask(tenant.chatting, f"Hello! {CAPITAL}")
    assert (replay.headers["x-served-mode"], "detail=canonical" in replay.headers["cache-status"]) == (
        "canonical",
        True,
    )
    receipt = await receipt_of(tenant.chatting, replay)
    assert receipt["served_mode"] == "canonical"
    assert receipt["origin_receipt_id"] == origin.headers["x-receipt-id"]
    fresh, charged = parse_usd(origin.headers["x-cost-usd"]), parse_usd(replay.headers["x-cost-usd"])
    assert charged == -(-fresh // 4)


async def test_another_organisation_is_never_met(installation: Installation, tenant: Tenant) -> None:
    stranger = await installation.tenant("Other")
    for one in (tenant, stranger):
        await permit(one, up_to="canonical")
        assert await served(one.chatting, CAPITAL) == "fresh"
    assert await served(stranger.chatting, f"Hello! {CAPITAL}") == "canonical"


async def test_a_question_that_means_the_same_is_replayed_once_that_is_proven() -> None:
    async with installed(semantic=True) as running:
        for told_apart in (True, False):  # answers that repeat the question, and one answer to all
            tenant = await running.tenant(f"told apart: {told_apart}")
            await permit(tenant, up_to="semantic", max_error="0.5")
            if not told_apart:
                running.upstream.script(MODEL, Behaviour(text="The harbour master does."))
            kept, *others = [ASKED.format(*words.split()) for words in WORDS]
            assert await served(tenant.chatting, kept) == "fresh"
            for text in others[:FEWEST]:
                assert await served(tenant.chatting, text) == "fresh", "nothing is proven yet"
            modes = []
            for text in others[FEWEST:]:  # one in fifty is explored all the same
                replay = await ask(tenant.chatting, text)
                modes.append(replay.headers["x-served-mode"])
                if modes[-1] == "semantic":
                    break
            if told_apart:
                assert set(modes) == {"fresh"}, "an answer that was wrong each time is replayed to nobody"
        assert modes[-1] == "semantic"
        assert "similarity=0." in replay.headers["cache-status"]
        assert (await receipt_of(tenant.chatting, replay))["served_mode"] == "semantic"
        other = ASKED.format("stadium", "table", "napkins")
        strict = await ask(tenant.chatting, other, "semantic, max-error=0.01")
        assert strict.headers["x-served-mode"] == "fresh", "a tighter bound is not proven by a handful"
