"""The index of routes that are called at once, held to FastAPI's own way to them."""

from __future__ import annotations

from typing import Any

import pytest
import structlog
from starlette.routing import Match

from edge.front import StraightRoute

SHORT = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/api/v1/chat/completions"),
    ("GET", "/v1/models"),
    ("GET", "/readyz"),
    ("GET", "/.well-known/jwks.json"),
]


def found_by_fastapi(world: Any, method: str, path: str) -> Any:
    scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": []}
    return next(route for route in world.app.routed.routes if route.matches(dict(scope))[0] is Match.FULL)


async def test_every_exact_path_leads_where_fastapi_would(world: Any) -> None:
    index = world.app._exact
    assert set(SHORT) <= set(index)
    for (method, path), route in index.items():
        assert found_by_fastapi(world, method, path) is route
    straight = [route for route in world.app.routed.routes if isinstance(route, StraightRoute)]
    assert {route.path for route in straight} - {path for _, path in index} == {
        f"{prefix}{path}"
        for prefix in ("/v1", "/api/v1")
        for path in ("/models/{model_id:path}", "/receipts/{receipt_id}", "/receipts/{receipt_id}/proof")
    }


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("authorization", ["Bearer tg-" + "a" * 43, "Bearer wrong"])
async def test_an_answer_is_the_same_whichever_way_the_route_is_found(
    world: Any, indexed: bool, authorization: str
) -> None:
    world.router.answers()
    if not indexed:
        world.app._exact.clear()
    with structlog.testing.capture_logs() as lines:
        response = await world.chat({"authorization": authorization})
    (line,) = [line for line in lines if line["event"] == "request"]
    assert line["route"] == "/v1/chat/completions"
    known = authorization != "Bearer wrong"
    assert response.status_code == line["status"] == (200 if known else 401)
    assert line.get("error_code") == (None if known else "invalid_api_key")
    sent = {"content-length", "content-type", "x-request-id", "x-trace-id"}
    charged = {"x-cost-usd", "x-receipt-id", "x-usage-input-tokens", "x-usage-output-tokens"}
    answered = {"cache-status", "x-generation-id", "x-served-mode"} | charged
    assert set(response.headers) == sent | (answered if known else {"www-authenticate"})


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models/gpt-4o-mini", "/v1/projects"])
async def test_a_bug_is_told_in_the_same_words_whichever_way_the_route_was_found(
    world: Any, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Not in FastAPI's, which would also have the server close the connection."""
    monkeypatch.setattr("edge.auth._bearer", lambda _: 1 / 0)
    with structlog.testing.capture_logs() as lines:
        response = await world.client.request("POST" if "chat" in path else "GET", path)
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
    assert "division" not in response.text
    assert [line["event"] for line in lines] == ["unexpected_error", "request"]
    assert lines[1]["error_code"] == "internal_error"


@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD"])
async def test_another_method_of_an_exact_path_is_refused_with_those_it_takes(world: Any, method: str) -> None:
    response = await world.client.request(method, "/v1/chat/completions")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
