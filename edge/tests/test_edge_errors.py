"""The one table from ErrorReason to OpenAI error, and how refusals of the services arrive."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import openai
import orjson
import pytest

from edge.errors import TABLE, error_body, error_response
from meshkit.errors import MeshError
from tallygate.common.v1.errors_pb2 import ErrorReason

PROMISED = {
    "INVALID_API_KEY": (401, "invalid_api_key"),
    "API_KEY_REVOKED": (401, "invalid_api_key"),
    "INSUFFICIENT_BALANCE": (402, "insufficient_balance"),
    "MODEL_NOT_ALLOWED": (403, "model_not_allowed"),
    "MODEL_NOT_FOUND": (404, "model_not_found"),
    "NOT_FOUND": (404, "not_found"),
    "METHOD_NOT_ALLOWED": (405, "method_not_allowed"),
    "IDEMPOTENCY_CONFLICT": (409, "idempotency_conflict"),
    "IDEMPOTENCY_KEY_IN_USE": (409, "idempotency_key_in_use"),
    "ANSWER_GONE": (409, "idempotent_answer_gone"),
    "REQUEST_TOO_LARGE": (413, "request_too_large"),
    "BUDGET_EXCEEDED": (429, "monthly_cap_exceeded"),
    "RATE_LIMIT_EXCEEDED": (429, "rate_limit_exceeded"),
    "INVALID_REQUEST": (400, "invalid_request"),
    "UPSTREAM_REJECTED": (400, "upstream_rejected"),
    "UPSTREAM_KEY_REJECTED": (424, "provider_key_rejected"),
    "UPSTREAM_ERROR": (502, "upstream_error"),
    "UNAVAILABLE": (503, "unavailable"),
    "DEADLINE_EXCEEDED": (504, "timeout"),
    "INTERNAL": (500, "internal_error"),
}


def test_every_reason_is_mapped() -> None:
    assert set(TABLE) == set(ErrorReason.values())


def test_every_error_says_something() -> None:
    for shape in TABLE.values():
        assert shape.text.endswith(".")
        assert not shape.advice or shape.advice.endswith(".")
        assert shape.code == shape.code.lower().replace(" ", "_")


@pytest.mark.parametrize(("reason", "promise"), PROMISED.items())
def test_promised_statuses_and_codes(reason: str, promise: tuple[int, str]) -> None:
    shape = TABLE[ErrorReason.Value(f"ERROR_REASON_{reason}")]
    assert (shape.status, shape.code) == promise


@pytest.mark.parametrize(("period", "code"), [("day", "daily_cap_exceeded"), ("month", "monthly_cap_exceeded")])
def test_a_cap_is_named_by_its_period(period: str, code: str) -> None:
    error = MeshError(ErrorReason.ERROR_REASON_BUDGET_EXCEEDED, "the cap ...", metadata={"period": period})
    assert error_body(error)["error"]["code"] == code


def test_a_reason_of_a_newer_contract_is_internal_and_keeps_its_text_to_itself() -> None:
    response = error_response(
        MeshError(ErrorReason.ValueType(99_999), "a text from the future", status=grpc.StatusCode.OK)
    )
    assert response.status_code == 500
    assert b"future" not in response.body


@pytest.mark.parametrize(
    "reason", ["UNSPECIFIED", "INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "DEADLINE_REQUIRED", "HOLD_CLOSED"]
)
def test_what_names_the_inside_is_not_sent(reason: str) -> None:
    body = error_body(MeshError(ErrorReason.Value(f"ERROR_REASON_{reason}"), "connect to ipv4:10.0.0.3:7003 failed"))
    assert "10.0.0.3" not in body["error"]["message"]


def test_what_the_service_said_is_sent_with_advice_once() -> None:
    reason = ErrorReason.ERROR_REASON_INSUFFICIENT_BALANCE
    advice = TABLE[reason].advice
    said = error_body(MeshError(reason, "0.10 USD are held, 0.02 USD are there"))["error"]["message"]
    assert said == f"0.10 USD are held, 0.02 USD are there. {advice}"
    assert error_body(MeshError(reason, said))["error"]["message"] == said


def test_param_and_retry_after_come_from_the_refusal_where_it_knows() -> None:
    reason = ErrorReason.ERROR_REASON_RATE_LIMIT_EXCEEDED
    response = error_response(MeshError(reason, "slow down", metadata={"retry_after_s": "17", "param": "n"}))
    assert response.headers["retry-after"] == "17"
    assert orjson.loads(response.body)["error"]["param"] == "n"
    assert "retry-after" not in error_response(MeshError(reason, "slow down")).headers


@pytest.mark.parametrize(
    "reason", ["BUDGET_EXCEEDED", "IDEMPOTENCY_CONFLICT", "ANSWER_GONE", "DEADLINE_EXCEEDED", "NO_SOURCE"]
)
def test_clients_are_kept_from_retrying_in_vain(reason: str) -> None:
    response = error_response(MeshError(ErrorReason.Value(f"ERROR_REASON_{reason}"), "no"))
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("reason", ["UNAVAILABLE", "RATE_LIMIT_EXCEEDED", "UPSTREAM_ERROR", "UPSTREAM_RATE_LIMITED"])
def test_clients_may_retry_what_can_pass(reason: str) -> None:
    response = error_response(MeshError(ErrorReason.Value(f"ERROR_REASON_{reason}"), "no"))
    assert "x-should-retry" not in response.headers


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("reason", "status"),
    [("INSUFFICIENT_BALANCE", 402), ("MODEL_NOT_ALLOWED", 403), ("UPSTREAM_ERROR", 502), ("UPSTREAM_REJECTED", 400)],
)
async def test_a_refusal_of_the_router_is_a_status_for_a_stream_too(
    world: Any, reason: str, status: int, stream: bool
) -> None:
    world.router.script = [MeshError(ErrorReason.Value(f"ERROR_REASON_{reason}"), "said by the router.")]
    response = await world.chat(stream=stream)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert response.json()["error"]["message"].startswith("said by the router.")


async def test_a_router_that_is_away_is_unavailable(world: Any) -> None:
    await world.stop("router")
    response = await world.chat()
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert "unix:" not in response.text


async def test_a_router_that_is_too_slow_is_a_timeout(make_world: Any) -> None:
    world = await make_world(request_timeout_s=0.05)
    world.router.script = [asyncio.Event()]
    response = await world.chat()
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "timeout"


async def test_a_router_without_a_final_is_a_bug_and_not_an_answer(world: Any) -> None:
    world.router.script = [world.router.route()]
    assert (await world.chat()).status_code == 500


async def test_an_unknown_exception_is_500_with_its_trace_and_without_its_text(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.routes.chat.parse_chat", lambda _: 1 / 0)
    response = await world.chat()
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert "division" not in response.text
    assert len(response.headers["x-trace-id"]) == 32


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("INVALID_REQUEST", openai.BadRequestError),
        ("INVALID_API_KEY", openai.AuthenticationError),
        ("MODEL_NOT_ALLOWED", openai.PermissionDeniedError),
        ("MODEL_NOT_FOUND", openai.NotFoundError),
        ("IDEMPOTENCY_CONFLICT", openai.ConflictError),
        ("BUDGET_EXCEEDED", openai.RateLimitError),
        ("UPSTREAM_ERROR", openai.InternalServerError),
        ("INSUFFICIENT_BALANCE", openai.APIStatusError),
    ],
)
async def test_the_sdk_raises_its_own_classes(world: Any, served: str, reason: str, kind: type[Exception]) -> None:
    world.router.script = [
        MeshError(ErrorReason.Value(f"ERROR_REASON_{reason}"), "no.", status=grpc.StatusCode.ABORTED)
    ]
    async with openai.AsyncOpenAI(base_url=f"{served}/v1", api_key="tg-" + "a" * 43, max_retries=0) as client:
        with pytest.raises(kind) as caught:
            await client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "x"}])
    assert isinstance(caught.value, openai.APIStatusError)
    assert caught.value.code == TABLE[ErrorReason.Value(f"ERROR_REASON_{reason}")].code


async def test_the_sdk_does_not_retry_a_spent_cap(world: Any, served: str) -> None:
    world.router.script = [MeshError(ErrorReason.ERROR_REASON_BUDGET_EXCEEDED, "The cap of this month is spent.")]
    async with openai.AsyncOpenAI(base_url=f"{served}/v1", api_key="tg-" + "a" * 43) as client:
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "x"}])
    assert len(world.router.requests) == 1
