"""Reading the audit trail on each real database: whose it is, pages, filters; and the revisions of the catalog."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from ledger_trail import a_repricing, told

from ledger_svc.domain.charges import ChargeFacts
from ledger_svc.domain.errors import InvalidRequest, NotFound
from ledger_svc.domain.repricing import MAX_LISTED, OfferList, PriceChange
from ledger_svc.service.keys import KeyService
from ledger_svc.service.trail import TrailService
from ledger_svc.service.trail_ports import TrailFilter
from meshkit.money import BillingTier, PriceSnapshot, Rates, RateTier
from meshkit.principal import Actor, ActorKind, Principal
from meshkit.testing import FakeClock

NewPayer = Callable[..., Awaitable[Principal]]
NewFacts = Callable[..., ChargeFacts]

CATALOG = Actor(ActorKind.SYSTEM, "catalog")
ADA = Actor(ActorKind.API_KEY, "key_ada", "2001:db8::7", "ab" * 16)

PRICE = PriceSnapshot("a/m", BillingTier.PASSTHROUGH, (RateTier(0, Rates(input_pico_usd=150_000)),), markup_bps=500)


async def test_another_organisations_entry_is_not_there_and_the_installations_is(
    trail: TrailService, new_payer: NewPayer
) -> None:
    payer, other = await new_payer(), await new_payer()
    await trail.record_revision(a_repricing("1"), actor=CATALOG)
    theirs = (await told(trail, other.org_id, "key."))[0]
    for entry_id in (theirs.entry_id, "aud_none"):
        with pytest.raises(NotFound):
            await trail.get(payer.org_id, entry_id)
        with pytest.raises(NotFound):
            await trail.prove(payer.org_id, entry_id, 0)
    assert (await trail.get("", theirs.entry_id)).entry == theirs
    (shared,) = await told(trail, payer.org_id, "catalog.")
    assert (shared.org_id, shared.actor) == ("", CATALOG)
    assert (await trail.get(other.org_id, shared.entry_id)).entry == shared
    assert len(await told(trail, "")) == 7


async def test_pages_have_every_entry_once_also_of_one_time(
    trail: TrailService, keys: KeyService, new_payer: NewPayer, clock: FakeClock
) -> None:
    payer = await new_payer()
    for n in range(7):
        clock.advance(n % 2)
        await keys.create_project(payer.org_id, f"p{n}")
        await trail.record_revision(a_repricing(str(n), str(n - 1) if n else ""), actor=CATALOG)
    everything, token, pages = [], "", 0
    while pages == 0 or token:
        found, token = await trail.page(TrailFilter(payer.org_id), page_size=3, page_token=token)
        everything += found
        pages += 1
    assert pages == 6
    assert {entry.entry_id for entry in everything} == {e.entry_id for e in await told(trail, payer.org_id)}
    places = [(entry.created_at_ms, entry.entry_id) for entry in everything]
    assert places == sorted(places, reverse=True)
    assert len(set(places)) == 3 + 14


async def test_filters_let_pass_what_they_say(
    trail: TrailService, keys: KeyService, new_payer: NewPayer, clock: FakeClock
) -> None:
    payer = await new_payer()
    clock.advance(10_000)
    at = clock.now_ms()
    made = await keys.create_project(payer.org_id, "by ada", actor=ADA)
    clock.advance(10_000)
    await keys.create_project(payer.org_id, "later")
    for wanted in (
        TrailFilter(payer.org_id, actor_id="key_ada"),
        TrailFilter(payer.org_id, subject=made),
        TrailFilter(payer.org_id, from_ms=at, to_ms=at + 1),
        TrailFilter(payer.org_id, "project.created", from_ms=at, to_ms=at + 10_000),
    ):
        found, _ = await trail.page(wanted, page_size=0, page_token="")
        assert [entry.subject for entry in found] == [made], wanted
    for nothing in (
        TrailFilter(payer.org_id, "Project."),
        TrailFilter(payer.org_id, "%"),
        TrailFilter(payer.org_id, from_ms=at + 10_001),
        TrailFilter(payer.org_id, to_ms=1),
    ):
        assert await trail.page(nothing, page_size=0, page_token="") == ([], "")
    for wrong in (replace(nothing, actor_id="a\0"), replace(nothing, from_ms=-1)):
        with pytest.raises(InvalidRequest):
            await trail.page(wrong, page_size=0, page_token="")


async def test_a_revision_of_the_catalog_is_told_once_and_a_return_to_it_again(trail: TrailService) -> None:
    async def record(revision: str, previous: str) -> str:
        return await trail.record_revision(a_repricing(revision, previous), actor=CATALOG)

    assert await asyncio.gather(*(record("A", "") for _ in range(5))) == ["A"] * 5
    assert await record("B", "") == "A", "the caller does not know what was told last, and is told"
    assert await asyncio.gather(*(record("B", "A") for _ in range(5))) == ["B"] * 5
    assert await record("A", "B") == "A"
    assert await record("C", "B") == "A"
    found = await told(trail, "")
    assert [(entry.before.get("revision"), entry.subject) for entry in found] == [(None, "A"), ("A", "B"), ("B", "A")]


async def test_new_prices_are_told_in_figures_and_in_bounds(trail: TrailService) -> None:
    dear = replace(PRICE, rate_tiers=(RateTier(0, Rates(input_pico_usd=150_001)),))
    changes = (PriceChange("a/m", PRICE, dear), PriceChange("a/n", None, PRICE))
    change = a_repricing(
        "B",
        price_changes=changes,
        price_change_count=1_000,
        added=OfferList(("a/x",), 1),
        removed=OfferList((), 0),
    )
    await trail.record_revision(a_repricing("A"), actor=CATALOG)
    await trail.record_revision(replace(change, previous_revision="A"), actor=CATALOG)
    entry = (await told(trail, ""))[1]
    before, after = (
        [(price["offer_id"], price["price"] and price["price"]["rate_tiers"]) for price in state["prices"]]
        for state in (entry.before, entry.after)
    )
    tier = {"above_input_tokens": 0}
    assert before == [("a/m", [tier | {"input_pico_usd": "150000"}]), ("a/n", None)]
    assert after == [
        ("a/m", [tier | {"input_pico_usd": "150001"}]),
        ("a/n", [tier | {"input_pico_usd": "150000"}]),
    ]
    assert (entry.after["price_change_count"], entry.after["added_offers"]) == (1_000, ["a/x"])
    for wrong in (
        replace(change, price_change_count=1),
        replace(change, added=OfferList(("x",) * (MAX_LISTED + 1), MAX_LISTED + 1)),
        replace(change, revision="a\nb"),
        replace(change, removed=OfferList(("",), 1)),
    ):
        with pytest.raises(InvalidRequest):
            await trail.record_revision(wrong, actor=CATALOG)
