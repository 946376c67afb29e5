"""The routes that manage an account: a file for each resource, all behind the same guard."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import APIRouter

from edge.account import Account
from edge.auth import Authenticator
from edge.routes.account.exports import exports_router
from edge.routes.account.projects import projects_router
from edge.routes.account.requests import requests_router
from edge.routes.account.usage import usage_router
from meshkit.clock import Clock


def account_routers(account: Account, authenticator: Authenticator, clock: Clock) -> Iterator[APIRouter]:
    """One for each resource, without the prefix of the API."""
    yield projects_router(account, authenticator)
    yield usage_router(account, authenticator, clock)
    yield requests_router(account, authenticator)
    yield exports_router(account, authenticator, clock)
