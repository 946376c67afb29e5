"""Own keys as the router hears of them: kept for seconds, asked for once, dropped when the ledger tells of a change."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from router_neighbours import Neighbours, neighbours_at_rest

from meshkit.local import LocalNetwork
from meshkit.serve import running
from meshkit.telemetry import Telemetry
from meshkit.testing import TRANSPORTS, FakeClock, address_on, dialer_on
from router_svc.clients.provider_keys import WatchedProviderKeys
from router_svc.domain.errors import LedgerUnavailable
from router_svc.domain.own_key import OwnKey
from tallygate.ledger.v1 import provider_keys_pb2


def secret(text: str, source_id: str = "a", *, fallback: bool = True) -> provider_keys_pb2.ProviderSecret:
    return provider_keys_pb2.ProviderSecret(provider_key_id="pk_1", source_id=source_id, secret=text, fallback=fallback)


@asynccontextmanager
async def keys_from(
    neighbours: Neighbours, clock: FakeClock, *, transport: str = "local", folder: object = "", most_orgs: int = 10
) -> AsyncIterator[WatchedProviderKeys]:
    network, off = LocalNetwork(), Telemetry.off()
    async with (
        dialer_on(transport, off, network) as dial,
        running(neighbours.register, address_on(transport, "n", folder), off, local=network, drain_s=0.1) as near,
    ):
        yield WatchedProviderKeys(dial(near), clock, timeout_s=5.0, kept_s=5.0, most_orgs=most_orgs)


async def reveal(keys: WatchedProviderKeys, org_id: str = "org_1") -> dict[str, str]:
    return {source_id: key.secret.reveal() for source_id, key in (await keys.of(org_id)).items()}


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(5):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.001)


async def has_none(keys: WatchedProviderKeys, org_id: str) -> bool:
    return not await keys.of(org_id)


async def asked(neighbours: Neighbours, times: int) -> bool:
    return len(neighbours.secrets_asked) == times


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_keys_are_asked_for_once_and_kept_for_seconds(transport: str) -> None:
    neighbours, clock = neighbours_at_rest(), FakeClock()
    neighbours.secrets["org_1"] = [secret("sk-1"), secret("sk-2", "b", fallback=False)]
    with tempfile.TemporaryDirectory(prefix="k-") as folder:
        async with keys_from(neighbours, clock, transport=transport, folder=folder) as keys:
            found = await asyncio.gather(*(keys.of("org_1") for _ in range(64)))
            assert neighbours.secrets_asked == ["org_1"]
            assert all(each == found[0] for each in found)
            assert isinstance(found[0]["b"], OwnKey)
            assert [(name, key.secret.reveal(), key.fallback) for name, key in found[0].items()] == [
                ("a", "sk-1", True),
                ("b", "sk-2", False),
            ]
            clock.advance(4_999)
            await keys.of("org_1")
            assert len(neighbours.secrets_asked) == 1
            clock.advance(1)
            neighbours.secrets["org_1"] = []
            assert await keys.of("org_1") == {}
            assert len(neighbours.secrets_asked) == 2


async def test_a_change_drops_what_is_kept_of_that_organisation() -> None:
    neighbours, clock = neighbours_at_rest(), FakeClock()
    neighbours.secrets = {"org_1": [secret("sk-1")], "org_2": [secret("sk-2")]}
    async with keys_from(neighbours, clock) as keys:
        watch = asyncio.create_task(keys.watch())
        assert [await reveal(keys, org_id) for org_id in ("org_1", "org_2")] == [{"a": "sk-1"}, {"a": "sk-2"}]
        neighbours.secrets = {}
        neighbours.key_changes.put_nowait("org_1")
        await until(lambda: has_none(keys, "org_1"))
        assert await reveal(keys, "org_2") == {"a": "sk-2"}
        # The watch is lost and stands again: what was said in between was not heard, so all is dropped.
        neighbours.key_changes.put_nowait(None)
        await until(lambda: has_none(keys, "org_2"))
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)


async def test_an_answer_that_crossed_a_change_is_not_kept_and_not_given_to_later_requests() -> None:
    neighbours, clock = neighbours_at_rest(), FakeClock()
    neighbours.secrets["org_1"], neighbours.answering = [secret("sk-old")], asyncio.Event()
    async with keys_from(neighbours, clock) as keys:
        early = asyncio.create_task(reveal(keys))
        await until(lambda: asked(neighbours, 1))
        neighbours.secrets["org_1"] = [secret("sk-new")]
        keys.forget("org_1")
        late = asyncio.create_task(reveal(keys))
        await until(lambda: asked(neighbours, 2))
        neighbours.answering.set()
        assert (await early, await late) == ({"a": "sk-old"}, {"a": "sk-new"})
        assert await reveal(keys) == {"a": "sk-new"}
        assert len(neighbours.secrets_asked) == 2


async def test_a_ledger_that_is_away_is_not_taken_for_one_without_keys() -> None:
    neighbours, clock = neighbours_at_rest(), FakeClock()
    neighbours.secrets_away = True
    async with keys_from(neighbours, clock) as keys:
        with pytest.raises(LedgerUnavailable):
            await keys.of("org_1")
        neighbours.secrets_away = False
        assert await keys.of("org_1") == {}


async def test_a_request_that_goes_leaves_the_answer_to_the_others() -> None:
    neighbours, clock = neighbours_at_rest(), FakeClock()
    neighbours.secrets["org_1"], neighbours.answering = [secret("sk-1")], asyncio.Event()
    async with keys_from(neighbours, clock) as keys:
        gone, staying = asyncio.create_task(reveal(keys)), asyncio.create_task(reveal(keys))
        await until(lambda: asked(neighbours, 1))
        gone.cancel()
        neighbours.answering.set()
        assert await staying == {"a": "sk-1"}
        assert neighbours.secrets_asked == ["org_1"]


async def test_keys_are_kept_of_so_many_organisations() -> None:
    neighbours, clock = neighbours_at_rest(), FakeClock()
    async with keys_from(neighbours, clock, most_orgs=2) as keys:
        for org_id in ("org_1", "org_2", "org_1", "org_3", "org_1", "org_2"):
            await keys.of(org_id)
        assert neighbours.secrets_asked == ["org_1", "org_2", "org_3", "org_2"]
