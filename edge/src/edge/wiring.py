"""Composition root: from settings and a way to dial to the application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import ASGIApp

from edge.account import Account
from edge.app import create_app
from edge.clients import dial_mesh
from edge.limits.backend import rate_limits
from edge.settings import EdgeSettings
from meshkit.channels import Dial
from meshkit.clock import SystemClock
from meshkit.digests import new_salt
from meshkit.ids import new_id
from meshkit.telemetry import Telemetry


@asynccontextmanager
async def build(settings: EdgeSettings, dial: Dial, telemetry: Telemetry) -> AsyncIterator[ASGIApp]:
    """The edge as an ASGI application, to be served by ``edge.serving``. It runs its watches in the ASGI lifespan."""
    mesh = dial_mesh(settings, dial)
    account = Account(dial(settings.ledger_addr), cache=dial(settings.cache_addr), timeout_s=settings.rpc_timeout_s)
    clock = SystemClock()
    async with rate_limits(settings, clock) as limits:
        yield create_app(mesh, account, limits, settings, telemetry, clock=clock, make_id=new_id, new_salt=new_salt)
