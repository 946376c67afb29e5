"""A gateway for each test of the account's routes, and an organisation in it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.account.installation import Installation, Tenant, installed


@pytest.fixture
async def installation() -> AsyncIterator[Installation]:
    """A gateway of its own for a test."""
    async with installed() as running:
        yield running


@pytest.fixture
async def tenant(installation: Installation) -> Tenant:
    """An organisation."""
    return await installation.tenant()
