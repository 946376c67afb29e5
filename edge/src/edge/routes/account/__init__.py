"""The routes that manage an account: a file for each resource, all behind the same guard."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import APIRouter

from edge.account import Account
from edge.auth import Authenticator
from edge.catalog import CatalogView
from edge.routes.account.audit import audit_router
from edge.routes.account.billing import billing_router
from edge.routes.account.cache import cache_router
from edge.routes.account.caps import caps_router
from edge.routes.account.exports import exports_router
from edge.routes.account.keys import keys_router, own_key_router
from edge.routes.account.organization import organization_router
from edge.routes.account.payment_notices import notices_router
from edge.routes.account.payments import payments_router
from edge.routes.account.projects import projects_router
from edge.routes.account.provider_keys import provider_keys_router
from edge.routes.account.recordings import recordings_router
from edge.routes.account.requests import requests_router
from edge.routes.account.usage import usage_router
from edge.routes.account.webhooks import webhooks_router
from meshkit.clock import Clock


def account_routers(
    account: Account, authenticator: Authenticator, catalog: CatalogView, clock: Clock
) -> Iterator[APIRouter]:
    """One for each resource, without the prefix of the API."""
    yield organization_router(account, authenticator)
    yield projects_router(account, authenticator)
    yield audit_router(account, authenticator)
    yield provider_keys_router(account, authenticator, catalog)
    yield webhooks_router(account, authenticator)
    yield billing_router(account, authenticator, catalog, clock)
    yield payments_router(account, authenticator)
    yield notices_router(account)
    yield keys_router(account, authenticator)
    yield own_key_router(account, authenticator)
    yield caps_router(account, authenticator)
    yield cache_router(account, authenticator, catalog, clock)
    yield usage_router(account, authenticator, clock)
    yield requests_router(account, authenticator)
    yield exports_router(account, authenticator, clock)
    yield recordings_router(account, authenticator, clock)
