"""A gateway for each module of tests of the account's routes, and in it an organisation for each test: to make a
gateway takes longer than most of the tests.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.account.installation import Installation, Tenant, installed
from tests.harness.commands import logging_as_before


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def installation() -> AsyncIterator[Installation]:
    """A gateway of its own for a module."""
    async with installed() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def tenant(installation: Installation) -> Tenant:
    """An organisation; the source has no script and no calls."""
    installation.upstream.reset()
    return await installation.tenant()


@pytest.fixture(autouse=True)
def logging_ends_with_its_test() -> Iterator[None]:
    """What a command that runs in this process sets up."""
    with logging_as_before():
        yield
