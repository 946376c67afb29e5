"""The routes that manage an account: a file for each resource, all behind the same guard."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import APIRouter

from edge.account import Account
from edge.auth import Authenticator
from edge.routes.account.caps import caps_router
from edge.routes.account.keys import keys_router, own_key_router
from edge.routes.account.organization import organization_router
from edge.routes.account.projects import projects_router


def account_routers(account: Account, authenticator: Authenticator) -> Iterator[APIRouter]:
    """One for each resource, without the prefix of the API."""
    yield organization_router(account, authenticator)
    yield projects_router(account, authenticator)
    yield keys_router(account, authenticator)
    yield own_key_router(account, authenticator)
    yield caps_router(account, authenticator)
