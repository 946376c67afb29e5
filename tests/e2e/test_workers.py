"""`--workers 2`: two processes answer on one port, over one ledger and one count of the rate limits."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.bench.cpu import command_line, family
from tests.conftest import MODES
from tests.harness.background import BackgroundLoop
from tests.harness.connections import Answer, Client, client_at, client_of_each
from tests.harness.gateway import RunningGateway, running_gateway
from tests.harness.tenants import Tenants
from tests.upstream.overlay import API_KEYS
from tests.upstream.server import ScriptedUpstream

CREDIT_NANO_USD = 10**9
PROGRAM = {"allinone": "tallygate_deploy.worker", "mesh": "edge"}
SETTINGS = {
    "TALLYGATE_EDGE_LIMITS_TIMEOUT_S": "10",  # a busy machine is not one whose Redis is away
    # What is waited for in minutes in production happens here within seconds.
    "TALLYGATE_ROUTER_HOLD_TTL_S": "1",
    "TALLYGATE_LEDGER_SWEEP_INTERVAL_S": "0.1",
}
CACHED_S = 5
"""For so long an edge takes a key for valid that the ledger has once said is, unless it is told otherwise."""

pytestmark = pytest.mark.timeout(150)  # up to eight processes start


@dataclass(frozen=True, slots=True)
class Served:
    """A gateway with two workers."""

    process: RunningGateway
    upstream: ScriptedUpstream
    tenants: Tenants

    @property
    def pids(self) -> list[int]:
        """The workers."""
        wanted = ["-m", PROGRAM[self.process.mode]]
        return [pid for pid in family(self.process.process.pid) if command_line(pid)[1:3] == wanted]


@pytest.fixture(scope="module", params=MODES)
def served(
    request: pytest.FixtureRequest,
    background: BackgroundLoop,
    upstream_server: ScriptedUpstream,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    folder: Path = tmp_path_factory.mktemp(f"workers-{request.param}")
    catalog = upstream_server.write_overlay(folder / "overlay.yaml")
    with running_gateway(
        request.param,
        folder / "data",
        catalog=catalog,
        environment={**API_KEYS, **SETTINGS},
        options=["--workers", "2"],
    ) as process:
        yield Served(process, upstream_server, Tenants(background, process.ledger_addr))


@pytest.fixture
def two(served: Served) -> Served:
    """With the upstream as new."""
    served.upstream.reset()
    return served


def test_both_answer_and_count_one_limit(two: Served) -> None:
    key = two.tenants.make(CREDIT_NANO_USD, requests_per_minute=60)
    pids = two.pids
    assert len(pids) == 2

    def ask(client: Client) -> list[Answer]:
        return [client.chat("test/ok") for _ in range(35)]

    with client_of_each(two.process.base_url, key.secret, pids) as clients, ThreadPoolExecutor(2) as threads:
        answers = [answer for own in threads.map(ask, clients) for answer in own]
    assert Counter(answer.status for answer in answers) == {200: 60, 429: 10}
    left = [int(answer.headers["x-ratelimit-remaining"]) for answer in answers if answer.status == 200]
    assert sorted(left) == list(range(60))


def test_identical_requests_at_both_make_one_call(two: Served) -> None:
    key = two.tenants.make(CREDIT_NANO_USD)
    twice = {"Idempotency-Key": "at both"}
    with client_of_each(two.process.base_url, key.secret, two.pids) as clients, ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(client.chat, "test/gated", temperature=0) for client in clients]
        two.upstream.wait_until_blocking(bool)
        two.upstream.release()
        answers = [future.result() for future in asked]
        assert sorted(answer.headers["x-served-mode"] for answer in answers) == ["exact", "fresh"]
        assert len(two.upstream.calls) == 1
        one, other = (client.chat("test/ok", headers=twice, temperature=1) for client in clients)
    assert len(two.upstream.calls) == 2
    assert one.body == other.body
    assert len(two.tenants.receipts(key.org_id)) == 3


def test_a_revocation_reaches_both(two: Served) -> None:
    key = two.tenants.make(CREDIT_NANO_USD)
    with client_of_each(two.process.base_url, key.secret, two.pids) as clients:
        two.tenants.revoke(key)
        began_s = time.monotonic()
        for client in clients:
            while client.get("/models").status != 401:
                assert time.monotonic() - began_s < CACHED_S - 1, "it was not told"


def test_a_worker_that_is_killed_takes_nothing_with_it_but_its_connections(two: Served) -> None:
    key = two.tenants.make(CREDIT_NANO_USD)
    url, pids = two.process.base_url, two.pids
    with client_of_each(url, key.secret, pids) as (lost, kept), ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(client.chat, "test/gated") for client in (lost, kept)]
        two.upstream.wait_until_blocking(lambda calls: len(calls) == 2)
        os.kill(pids[0], signal.SIGKILL)
        with pytest.raises(ConnectionError):
            asked[0].result()
        with client_at(url, key.secret) as anyone:
            assert anyone.chat("test/ok").status == 200, "the port is served on"
        two.upstream.release()
        assert asked[1].result().status == 200
    give_up_at = time.monotonic() + 60
    while len(two.pids) < 2 or two.tenants.balance(key.org_id).open_holds:
        assert time.monotonic() < give_up_at, "it is not replaced, or what it held is held on"
        time.sleep(0.05)
    with client_of_each(url, key.secret, two.pids) as clients:
        assert [client.chat("test/ok").status for client in clients] == [200, 200]
    assert two.process.tallygate("ledger", "check").returncode == 0


def test_sigterm_lets_what_runs_end(two: Served) -> None:
    """The last of a gateway: it serves no more after it."""
    key = two.tenants.make(CREDIT_NANO_USD)
    with client_of_each(two.process.base_url, key.secret, two.pids) as clients, ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(client.chat, "test/gated", seed=number) for number, client in enumerate(clients)]
        two.upstream.wait_until_blocking(lambda calls: len(calls) == 2)
        two.process.process.send_signal(signal.SIGTERM)
        two.upstream.release()
        assert [future.result().status for future in asked] == [200, 200]
    assert two.process.process.wait(60) == 0
