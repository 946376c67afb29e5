"""What the tests across services share: a scripted upstream, a trace receiver, and a gateway in either mode."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tallygate_deploy.span_receiver import SpanReceiver, span_receiver
from tests.harness.background import BackgroundLoop
from tests.harness.gateway import Gateway
from tests.harness.gateways import Gateways
from tests.upstream.overlay import API_KEYS
from tests.upstream.server import ScriptedUpstream, scripted_upstream

MODES = ("allinone", "mesh")
_GATEWAYS = pytest.StashKey[Gateways]()


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


@pytest.fixture(scope="session")
def gateways(
    request: pytest.FixtureRequest,
    background: BackgroundLoop,
    upstream_server: ScriptedUpstream,
    spans: SpanReceiver,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gateways]:
    environment = {**API_KEYS, **spans.otel_environment()}
    gateways = Gateways(background, upstream_server, spans, tmp_path_factory.mktemp("gateways"), environment)
    request.config.stash[_GATEWAYS] = gateways
    yield gateways
    gateways.stop()


@pytest.fixture(scope="module", params=MODES)
def running(request: pytest.FixtureRequest, gateways: Gateways) -> Gateway:
    """The gateway of a mode, with an organisation for the tests of a module."""
    return gateways.of_new_tenant(request.param)


@pytest.fixture
def gateway(running: Gateway) -> Gateway:
    """The running gateway, its upstream as new."""
    running.upstream.reset()
    return running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that need gateways come first, so that these run for a part of the time only."""
    needing = {item.path for item in items if _needs_gateway(item)}
    items.sort(key=lambda item: item.path not in needing)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Gateways end with the last test that needs one."""
    gateways = item.config.stash.get(_GATEWAYS, None)
    if gateways is not None and nextitem is not None and nextitem.path != item.path and not _needs_gateway(nextitem):
        gateways.stop()


def _needs_gateway(item: pytest.Item) -> bool:
    return "gateways" in getattr(item, "fixturenames", ())
