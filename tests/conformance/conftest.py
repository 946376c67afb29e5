"""The real OpenAI SDKs, set up as a user would: nothing but base_url and a key."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack

import openai
import pytest

from tests.harness.gateway import Gateway

CREDIT_NANO_USD = 10**9
MakeClient = Callable[[str], openai.OpenAI]


@pytest.fixture
def client_for(gateway: Gateway) -> Iterator[MakeClient]:
    """A client with the key given. It retries nothing, so that each test sees the gateway's own first answer."""
    with ExitStack() as stack:

        def make(api_key: str) -> openai.OpenAI:
            client = openai.OpenAI(base_url=gateway.base_url, api_key=api_key, max_retries=0, timeout=30.0)
            return stack.enter_context(client)

        yield make


@pytest.fixture
def client(gateway: Gateway, client_for: MakeClient) -> openai.OpenAI:
    return client_for(gateway.api_key)


@pytest.fixture
async def async_client(gateway: Gateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=gateway.base_url, api_key=gateway.api_key, max_retries=0, timeout=30.0
    ) as client:
        yield client


@pytest.fixture
def limited_key(gateway: Gateway) -> str:
    """A key with credit that may use another model than the tests ask for."""
    return gateway.tenants.make(CREDIT_NANO_USD, allowed_models=("test/text-only",)).secret
