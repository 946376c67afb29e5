"""Requests that failed, on their way to the ledger: which ones, once, and none for ever."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from edge.errors import refusal
from edge.exchange import Exchange
from edge.failures import Failures
from meshkit.errors import MeshError
from meshkit.testing import FakeClock
from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.ledger.v1 import usage_pb2


class Store:
    """Keeps them, or is away."""

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.refusal: MeshError | None = None

    async def record_failures(self, failures: Sequence[usage_pb2.FailedRequest]) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.kept += [failure.request_id for failure in failures]


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def failures(store: Store) -> Failures:
    return Failures(store, FakeClock(), interval_s=1, max_waiting=3)


def exchange(request_id: str, **facts: Any) -> Exchange:
    failed: dict[str, Any] = {"org_id": "org", "is_inference": True, "error_code": "upstream_error", "status": 502}
    return Exchange(request_id, "", **failed | facts)


@pytest.mark.parametrize(
    ("facts", "kept"),
    [
        ({}, True),
        ({"receipt_id": "rcpt", "status": 200}, True),  # broken off after its answer had begun
        ({"error_code": ""}, False),
        ({"org_id": ""}, False),
        ({"is_inference": False}, False),
        ({"error_code": "client_gone"}, False),
        ({"error_code": "idempotent_answer_gone"}, False),
        ({"idempotent_replayed": True}, False),
    ],
)
async def test_kept_is_what_a_known_client_asked_of_a_model_in_vain(
    store: Store, failures: Failures, facts: dict[str, Any], kept: bool
) -> None:
    failures.note_end(exchange("req_1", **facts), 7)
    await failures.flush()
    assert store.kept == (["req_1"] if kept else [])
    await failures.flush()
    assert store.kept == (["req_1"] if kept else [])


async def test_while_the_ledger_is_away_the_newest_wait(
    store: Store, failures: Failures, capsys: pytest.CaptureFixture[str]
) -> None:
    store.refusal = refusal(ErrorReason.ERROR_REASON_UNAVAILABLE, "away")
    for n in range(4):
        failures.note_end(exchange(f"req_{n}"), 7)
        await failures.flush()
    store.refusal = None
    failures.note_end(exchange("req_4"), 7)
    await failures.flush()
    assert store.kept == ["req_2", "req_3", "req_4"]
    said = capsys.readouterr().out
    assert said.count("failures_dropped") == 2
    assert "failures_wait" in said


async def test_what_the_ledger_refuses_does_not_keep_the_others(store: Store, failures: Failures) -> None:
    store.refusal = refusal(ErrorReason.ERROR_REASON_INVALID_REQUEST, "no")
    failures.note_end(exchange("req_1"), 7)
    await failures.flush()
    store.refusal = None
    failures.note_end(exchange("req_2"), 7)
    await failures.flush()
    assert store.kept == ["req_2"]
