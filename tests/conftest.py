"""What the tests across services share: a scripted upstream, a trace receiver, and a gateway in either mode."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tallygate_deploy.span_receiver import SpanReceiver, span_receiver
from tests.harness.background import BackgroundLoop
from tests.harness.gateway import Gateway, running_gateway
from tests.harness.tenants import Tenants
from tests.upstream.overlay import API_KEYS
from tests.upstream.server import ScriptedUpstream, scripted_upstream

MODES = ("allinone", "mesh")


@pytest.fixture(scope="session")
def background() -> Iterator[BackgroundLoop]:
    loop = BackgroundLoop()
    yield loop
    loop.close()


@pytest.fixture(scope="session")
def upstream_server(background: BackgroundLoop) -> Iterator[ScriptedUpstream]:
    with background.entered(scripted_upstream()) as upstream:
        yield upstream


@pytest.fixture(scope="session")
def spans(background: BackgroundLoop) -> Iterator[SpanReceiver]:
    with background.entered(span_receiver()) as receiver:
        yield receiver


@pytest.fixture(scope="session", params=MODES)
def running(
    request: pytest.FixtureRequest,
    background: BackgroundLoop,
    upstream_server: ScriptedUpstream,
    spans: SpanReceiver,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gateway]:
    """One gateway for all tests of a mode."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    catalog = upstream_server.write_overlay(folder / "overlay.yaml")
    environment = {**API_KEYS, **spans.otel_environment()}
    with running_gateway(request.param, folder / "data", catalog=catalog, environment=environment) as process:
        tenants = Tenants(background, process.ledger_addr)
        revoked = tenants.make(credit_nano_usd=10**9)
        tenants.revoke(revoked)
        yield Gateway(
            process=process,
            upstream=upstream_server,
            spans=spans,
            tenants=tenants,
            poor_key=tenants.make().secret,
            revoked_key=revoked.secret,
        )


@pytest.fixture
def gateway(running: Gateway) -> Gateway:
    """The running gateway, its upstream as new."""
    running.upstream.reset()
    return running
