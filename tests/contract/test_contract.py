"""Every RPC of every service, on every transport: the same case, the same assertions."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from meshkit.testing import TRANSPORTS
from tallygate.cache.v1 import cache_pb2, fills_pb2, flights_pb2, recordings_pb2
from tallygate.catalog.v1 import catalog_pb2
from tallygate.ledger.v1 import (
    account_pb2,
    audit_pb2,
    billing_pb2,
    ledger_pb2,
    provider_keys_pb2,
    usage_pb2,
    webhooks_pb2,
)
from tallygate.router.v1 import router_pb2
from tests.contract import (  # noqa: F401 - they register
    account_cases,
    audit_cases,
    billing_cases,
    cache_cases,
    catalog_cases,
    fill_cases,
    flight_cases,
    ledger_cases,
    provider_key_cases,
    recording_cases,
    router_cases,
    usage_cases,
    webhook_cases,
)
from tests.contract.cases import CASES
from tests.contract.world import World, world_over

pytestmark = pytest.mark.asyncio(loop_scope="module")


MODULES = (
    cache_pb2,
    fills_pb2,
    flights_pb2,
    recordings_pb2,
    catalog_pb2,
    ledger_pb2,
    account_pb2,
    audit_pb2,
    billing_pb2,
    provider_keys_pb2,
    usage_pb2,
    webhooks_pb2,
    router_pb2,
)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=TRANSPORTS)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with world_over(request.param) as world:
        yield world


@pytest.mark.parametrize("method", sorted(CASES))
async def test_an_rpc_keeps_its_contract(world: World, method: str) -> None:
    await CASES[method](world)


async def test_every_rpc_has_a_case() -> None:
    declared = {
        f"{service.name}/{method.name}"
        for module in MODULES
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert set(CASES) == declared
