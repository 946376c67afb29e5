"""Who is calling: asked of the ledger, kept as long as it allows, dropped when it says so."""

from __future__ import annotations

from typing import Any, cast

import pytest
from starlette.requests import Request

from edge.auth import Authenticator
from edge.exchange import Exchange
from edge.limits import FixedLimits, RateLimits
from edge.limits.memory import MemoryLimiter
from edge.mesh import Ledger
from meshkit.errors import MeshError
from meshkit.testing import FakeClock
from tallygate.common.v1 import principal_pb2
from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.ledger.v1 import ledger_pb2

OTHER = "tg-" + "b" * 43
PRINCIPAL = principal_pb2.Principal(org_id="org_1", project_id="prj_1", key_id="key_1")


async def status(world: Any, secret: str | None = None) -> int:
    headers = {"authorization": f"Bearer {secret}"} if secret else {}
    return int((await world.client.get("/v1/models", headers=headers)).status_code)


async def refused(world: Any) -> bool:
    return await status(world) == 401


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "tg-aaaa", "Bearer \u00e9".encode(), "Bearer " + "x" * 300],
)
@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/models", "/v1/models/gpt-4o-mini", "/v1/receipts/rcpt_1"]
)
async def test_a_missing_or_garbled_key_never_reaches_the_ledger(world: Any, header: Any, path: str) -> None:
    del world.client.headers["authorization"]
    headers = {} if header is None else {"authorization": header}
    method = "POST" if "chat" in path else "GET"
    response = await world.client.request(method, path, headers=headers)
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert response.headers["www-authenticate"] == "Bearer"
    assert world.ledger.authenticated == 0


async def test_an_unknown_key_is_refused_and_the_refusal_not_kept(world: Any) -> None:
    assert await status(world, OTHER) == 401
    world.ledger.principals[OTHER] = principal_pb2.Principal(org_id="org_2", project_id="prj_2", key_id="key_2")
    assert await status(world, OTHER) == 200


async def test_the_scheme_is_read_in_any_case(world: Any) -> None:
    secret = next(iter(world.ledger.principals))
    response = await world.client.get("/v1/models", headers={"authorization": f"bearer   {secret} "})
    assert response.status_code == 200


async def test_a_bad_key_is_refused_before_the_body_is_read(world: Any) -> None:
    response = await world.post(b"not json", {"authorization": f"Bearer {OTHER}"})
    assert response.status_code == 401


async def test_an_answer_is_kept_as_long_as_the_ledger_allows(world: Any) -> None:
    for _ in range(3):
        assert await status(world) == 200
    assert world.ledger.authenticated == 1
    world.clock.advance(4_999)
    assert await status(world) == 200
    assert world.ledger.authenticated == 1
    world.clock.advance(1)
    assert await status(world) == 200
    assert world.ledger.authenticated == 2


async def test_an_answer_that_may_not_be_kept_is_not(world: Any) -> None:
    world.ledger.valid_for_ms = 0
    await status(world)
    await status(world)
    assert world.ledger.authenticated == 2


async def test_a_revoked_key_is_dropped_at_once_and_others_are_not(world: Any) -> None:
    world.ledger.principals[OTHER] = principal_pb2.Principal(org_id="org_1", project_id="prj_1", key_id="key_2")
    assert (await status(world), await status(world, OTHER)) == (200, 200)
    world.ledger.revoked.add("key_1")
    world.ledger.tell("key_1")
    await world.until(lambda: refused(world))  # time stands still, so only the push can end this
    message = (await world.client.get("/v1/models")).json()["error"]["message"]
    assert "revoked" in message
    asked = world.ledger.authenticated
    assert await status(world, OTHER) == 200
    assert world.ledger.authenticated == asked


async def test_a_new_watch_drops_everything_kept_before(world: Any) -> None:
    assert await status(world) == 200
    world.ledger.revoked.add("key_1")
    world.ledger.tell(None)  # the watch breaks, and the push is lost
    await world.until(lambda: refused(world))


async def test_an_answer_that_crosses_a_revocation_is_not_kept() -> None:
    asked = 0

    class Crossed:
        """A ledger whose first answer is overtaken by a push."""

        async def authenticate(self, secret: str) -> ledger_pb2.AuthenticateResponse:
            nonlocal asked
            asked += 1
            if asked == 1:
                authenticator.forget("key_1")
            return ledger_pb2.AuthenticateResponse(principal=PRINCIPAL, valid_for_ms=5_000)

    clock = FakeClock()
    limiter = MemoryLimiter(clock, max_buckets=10)
    limits = RateLimits(limiter, limiter, FixedLimits(account_requests=0, failed_authentications=0))
    authenticator = Authenticator(cast("Ledger", Crossed()), limits, clock, max_entries=10)
    scope = {"type": "http", "headers": [(b"authorization", b"Bearer tg-x")]}
    Exchange(request_id="req_1", trace_id="").attach(scope)
    for _ in range(3):
        assert (await authenticator.authenticate(Request(scope))).principal == PRINCIPAL
    assert asked == 2


async def test_only_so_many_keys_are_kept(make_world: Any) -> None:
    world = await make_world(auth_entries=2)
    for letter in "bcd":
        principal = principal_pb2.Principal(org_id="org_1", project_id="prj_1", key_id=f"key_{letter}")
        world.ledger.principals["tg-" + letter * 43] = principal
    for letter in "bcbd":
        assert await status(world, "tg-" + letter * 43) == 200
    assert world.ledger.authenticated == 3
    assert await status(world, "tg-" + "b" * 43) == 200
    assert world.ledger.authenticated == 3, "the one used last was dropped"
    assert await status(world, "tg-" + "c" * 43) == 200
    assert world.ledger.authenticated == 4


async def test_without_the_ledger_what_is_kept_serves_until_its_time(world: Any) -> None:
    assert await status(world) == 200
    await world.stop("ledger")
    assert await status(world) == 200
    world.clock.advance(5_000)
    assert await status(world) == 503


async def test_a_failure_of_the_ledger_is_not_kept(world: Any) -> None:
    world.ledger.authenticate_error = MeshError(ErrorReason.ERROR_REASON_UNAVAILABLE, "standby")
    assert await status(world) == 503
    world.ledger.authenticate_error = None
    assert await status(world) == 200
