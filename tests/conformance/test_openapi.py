"""The OpenAPI document is true: what it allows is taken, what it does not is refused, and every answer is one of those
that it names. schemathesis makes the requests.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from unittest.mock import MagicMock

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from edge import openapi
from edge.app import create_app
from edge.settings import EdgeSettings
from meshkit.ids import new_id
from meshkit.money import NANO_PER_USD
from meshkit.testing import FakeClock
from tests.harness.gateway import Gateway

pytestmark = pytest.mark.parametrize("running", ["allinone"], indirect=True, scope="module")
"""The edge is the same in the other mode."""

CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
INFERENCE = {"Chat", "Models", "Receipts"}
EXAMPLES = 8
"""Of each operation, as many that the document allows and as many that it does not."""


def _document() -> dict[str, Any]:
    """What the application says of itself; it describes itself without being asked anything else."""
    nobody = MagicMock()
    app = create_app(
        nobody, nobody, nobody, EdgeSettings(), nobody, clock=FakeClock(), make_id=new_id, new_salt=lambda: b"0" * 16
    )
    return openapi.describe(app.routed)


DOCUMENT = _document()
API = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS = [(method, path) for path, operations in DOCUMENT["paths"].items() for method in operations]


@pytest.fixture(scope="module")
def keys(running: Gateway) -> dict[str, str]:
    """Of an organisation of its own: one key that calls models, and one that manages the account."""
    tenant = running.tenants.make(1_000 * NANO_PER_USD)
    return {"inference": tenant.secret, "account": running.tenants.account_key(tenant)}


def origin(gateway: Gateway) -> str:
    return gateway.base_url.removesuffix("/v1")


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=str)
def test_the_api_is_as_it_is_described(
    running: Gateway, keys: dict[str, str], method: str, path: str, mode: GenerationMode
) -> None:
    operation = API[path][method]
    tags = set(DOCUMENT["paths"][path][method]["tags"])
    headers = {"Authorization": f"Bearer {keys['inference' if tags & INFERENCE else 'account']}"}

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(case=operation.as_strategy(generation_mode=mode))
    def asked(case: schemathesis.Case[Any]) -> None:
        if "Chat" in tags and isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = case.body["model"] and "test/ok"
        case.call_and_validate(base_url=origin(running), headers=headers, checks=CHECKS, timeout=20)

    with suppress(Unsatisfiable):  # an operation that takes nothing has nothing to be wrong
        asked()


def test_the_document_is_where_users_look(running: Gateway) -> None:
    assert httpx.get(f"{origin(running)}/openapi.json").json() == DOCUMENT


def test_the_document_is_openapi_3_1_and_has_every_route(running: Gateway) -> None:
    assert DOCUMENT["openapi"].startswith("3.1")
    paths = DOCUMENT["paths"]
    assert {"/v1/chat/completions", "/v1/models", "/v1/receipts/{receipt_id}", "/v1/projects"} <= set(paths)
    assert not [path for path in paths if path.startswith("/api/v1")]
    for path, operations in paths.items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            assert "422" not in operation["responses"], (method, path)
            assert operation["tags"], (method, path)
