"""The routes that manage an account: a file for each resource, all behind the same guard."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import APIRouter

from edge.account import Account
from edge.auth import Authenticator
from edge.routes.account.projects import projects_router
from edge.routes.account.webhooks import webhooks_router


def account_routers(account: Account, authenticator: Authenticator) -> Iterator[APIRouter]:
    """One for each resource, without the prefix of the API."""
    yield projects_router(account, authenticator)
    yield webhooks_router(account, authenticator)
