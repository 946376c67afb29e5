"""``.../spend-cap``: what a key, a project or the organisation may spend in a day or a month. The ledger decides by
it.
"""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter

from edge.account import Account
from edge.auth import Authenticator
from edge.routes.account.guard import AccountCaller, CallerOf, account_router
from edge.wire.account.caps import SCOPES, SpendCap, SpendCapChange
from tallygate.ledger.v1 import ledger_pb2

Scope = Literal["key", "project", "organization"]


def caps_router(account: Account, authenticator: Authenticator) -> APIRouter:
    """The three resources."""
    router = account_router(authenticator, "Spend caps")

    @router.get("/keys/{key_id}/spend-cap", summary="Get the caps of a key")
    async def get_key_cap(key_id: str, caller: CallerOf) -> SpendCap:
        """What the key may spend, and has spent."""
        return await shown(caller, "key", key_id)

    @router.patch("/keys/{key_id}/spend-cap", summary="Set the caps of a key")
    async def set_key_cap(key_id: str, body: SpendCapChange, caller: CallerOf) -> SpendCap:
        """From the next request on. What was spent in the period before counts."""
        return await changed(caller, "key", key_id, body)

    @router.get("/projects/{project_id}/spend-cap", summary="Get the caps of a project")
    async def get_project_cap(project_id: str, caller: CallerOf) -> SpendCap:
        """What all keys of the project together may spend, and have spent."""
        return await shown(caller, "project", project_id)

    @router.patch("/projects/{project_id}/spend-cap", summary="Set the caps of a project")
    async def set_project_cap(project_id: str, body: SpendCapChange, caller: CallerOf) -> SpendCap:
        """From the next request on. What was spent in the period before counts."""
        return await changed(caller, "project", project_id, body)

    @router.get("/organization/spend-cap", summary="Get the caps of the organisation")
    async def get_organization_cap(caller: CallerOf) -> SpendCap:
        """What the organisation may spend, and has spent."""
        return await shown(caller, "organization", caller.org_id)

    @router.patch("/organization/spend-cap", summary="Set the caps of the organisation")
    async def set_organization_cap(body: SpendCapChange, caller: CallerOf) -> SpendCap:
        """From the next request on. What was spent in the period before counts."""
        return await changed(caller, "organization", caller.org_id, body)

    async def changed(caller: AccountCaller, scope: Scope, scope_id: str, body: SpendCapChange) -> SpendCap:
        limits = [
            ledger_pb2.CapLimit(period=period, unit=ledger_pb2.CAP_UNIT_NANO_USD, limit=limit_nano_usd)
            for period, limit_nano_usd in body.limits()
        ]
        request = ledger_pb2.SetCapsRequest(
            org_id=caller.org_id, scope=SCOPES[scope], scope_id=scope_id, limits=limits, actor=caller.actor
        )
        await account.ask(account.ledger.SetCaps, request)
        return await shown(caller, scope, scope_id)

    async def shown(caller: AccountCaller, scope: Scope, scope_id: str) -> SpendCap:
        request = ledger_pb2.ListCapsRequest(org_id=caller.org_id, scope=SCOPES[scope], scope_id=scope_id)
        found = await account.ask(account.ledger.ListCaps, request)
        return SpendCap.of(scope, scope_id, found.caps)

    return router
