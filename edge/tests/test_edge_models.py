"""Models, and the watch of the catalog behind them."""

from __future__ import annotations

from typing import Any

import pytest

from tallygate.catalog.v1 import catalog_pb2

GPT = {
    "id": "gpt-4o-mini",
    "object": "model",
    "created": 1_721_260_800,
    "owned_by": "openai",
    "name": "GPT-4o mini",
    "context_length": 128_000,
    "max_output_tokens": 16_384,
    "capabilities": ["tools", "vision"],
}


@pytest.mark.parametrize("prefix", ["/v1", "/api/v1"])
async def test_the_list_has_models_and_aliases(world: Any, prefix: str) -> None:
    listing = (await world.client.get(f"{prefix}/models")).json()
    assert listing["object"] == "list"
    assert [entry["id"] for entry in listing["data"]] == [
        "gpt-4o-mini",
        "local/smollm2-135m-instruct",
        "tallygate/fast",
    ]
    assert listing["data"][0] == GPT
    assert listing["data"][2] == GPT | {"id": "tallygate/fast", "alias_of": "gpt-4o-mini"}


@pytest.mark.parametrize("path", ["local/smollm2-135m-instruct", "local%2Fsmollm2-135m-instruct"])
async def test_an_id_may_have_slashes(world: Any, path: str) -> None:
    response = await world.client.get(f"/v1/models/{path}")
    assert response.status_code == 200
    assert response.json()["id"] == "local/smollm2-135m-instruct"


async def test_one_model_and_one_alias(world: Any) -> None:
    assert (await world.client.get("/api/v1/models/gpt-4o-mini")).json() == GPT
    assert (await world.client.get("/v1/models/tallygate/fast")).json()["alias_of"] == "gpt-4o-mini"


async def test_an_unknown_model_is_a_404_with_names_that_are_near(world: Any) -> None:
    response = await world.client.get("/v1/models/smollm2-135m-instruct")
    assert response.status_code == 404
    error = response.json()["error"]
    assert error["code"] == "model_not_found"
    assert "`local/smollm2-135m-instruct`" in error["message"]


async def listed(world: Any, *names: str) -> bool:
    data = (await world.client.get("/v1/models")).json()["data"]
    return [entry["id"] for entry in data] == list(names)


def revision(name: str, *models: str) -> catalog_pb2.Snapshot:
    return catalog_pb2.Snapshot(revision=name, models=[catalog_pb2.Model(id=model) for model in models])


async def test_a_new_revision_is_taken_as_it_comes(world: Any) -> None:
    world.catalog.publish(revision("rev2", "new"))
    await world.until(lambda: listed(world, "new"))
    assert (await world.chat()).status_code == 404


async def test_the_watch_is_taken_up_where_it_broke(world: Any) -> None:
    await world.stop("catalog")
    assert await listed(world, "gpt-4o-mini", "local/smollm2-135m-instruct", "tallygate/fast")
    world.catalog.current = revision("rev2", "new")
    await world.start("catalog")
    await world.until(lambda: listed(world, "new"))
    assert world.catalog.known[0] == ""
    assert world.catalog.known[-1] == "rev1"


async def test_a_watch_whose_time_is_over_is_opened_anew(make_world: Any) -> None:
    world = await make_world(watch_timeout_s=0.05)

    async def reopened() -> bool:
        return len(world.catalog.known) >= 3

    await world.until(reopened)
    assert set(world.catalog.known[1:]) == {"rev1"}


async def test_a_message_that_breaks_does_not_end_the_watch(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("edge.catalog.model_json", lambda *_, **__: 1 / 0)
        world.catalog.publish(revision("rev2", "bad"))

        async def reopened() -> bool:
            return len(world.catalog.known) >= 2

        await world.until(reopened)
    await world.until(lambda: listed(world, "bad"))
