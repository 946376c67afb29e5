"""Which requests the edge asks the cache to record."""

from __future__ import annotations

from typing import Any

import pytest
from edge_fakes import header_lines

from edge.wire.cache_control import lets_itself_be_recorded
from tallygate.cache.v1 import cache_pb2
from tallygate.ledger.v1 import ledger_pb2

CONTROLS = cache_pb2.CacheControls


@pytest.mark.parametrize(
    ("headers", "recorded"),
    [
        ({}, True),
        ({"x-tallygate-cache": "refresh, sampled", "cache-control": "no-cache, max-age=3"}, True),
        ({"x-tallygate-cache": "OFF"}, False),
        ({"cache-control": "max-age=3, No-Store"}, False),
        ({"x-tallygate-cache": "on", "cache-control": "no-store"}, False),
    ],
)
def test_a_request_may_say_that_nothing_of_it_is_kept(headers: dict[str, str], *, recorded: bool) -> None:
    assert lets_itself_be_recorded(header_lines(headers)) is recorded


async def test_a_request_is_recorded_only_where_the_policy_says_so(world: Any) -> None:
    world.router.answers()
    await world.chat()
    assert [lookup.controls.record for lookup in world.cache.lookups] == [False]
    world.ledger.cache.record_requests = True
    world.ledger.tell("key_1")
    await world.until(lambda: _asked_again(world))
    assert world.cache.lookups[-1].controls.record
    before = len(world.cache.lookups)
    await world.chat({"cache-control": "no-store"})
    assert len(world.cache.lookups) == before, "it asks the cache for nothing, and tells it nothing"


async def _asked_again(world: Any) -> bool:
    await world.chat()
    return bool(world.ledger.authenticated > 1)


async def test_what_a_key_does_not_cache_is_looked_up_only_to_be_recorded(world: Any) -> None:
    world.router.answers()
    world.ledger.policy.cache_default = ledger_pb2.CACHE_DEFAULT_OFF
    await world.chat()
    assert world.cache.lookups == []
    world.ledger.cache.record_requests = True
    world.ledger.tell("key_1")
    await world.until(lambda: _asked_again(world))
    asked = world.cache.lookups[-1].controls
    assert (asked.mode, asked.record) == (CONTROLS.MODE_OFF, True)
    assert world.router.requests[-1].cache_ticket == world.cache.answer.miss.ticket


async def test_a_request_that_is_looked_up_twice_is_recorded_once(world: Any) -> None:
    """A replay from where its key may not be answered is looked up again, to be refreshed."""
    world.ledger.cache.record_requests = True
    world.ledger.policy.region = ledger_pb2.REGION_POLICY_CN_ONLY
    world.cache.holds(stream=False)
    await world.chat()
    asked = [(lookup.controls.mode, lookup.controls.record) for lookup in world.cache.lookups]
    assert asked == [(CONTROLS.MODE_DEFAULT, True), (CONTROLS.MODE_REFRESH, False)]
