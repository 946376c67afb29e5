"""``/organization``: whose account it is."""

from __future__ import annotations

from fastapi import APIRouter

from edge.account import Account
from edge.auth import Authenticator
from edge.routes.account.guard import CallerOf, account_router
from edge.wire.account.organization import Organization
from tallygate.ledger.v1 import account_pb2


def organization_router(account: Account, authenticator: Authenticator) -> APIRouter:
    """The resource."""
    router = account_router(authenticator, "Organization")

    @router.get("/organization", summary="Get the organisation")
    async def get_organization(caller: CallerOf) -> Organization:
        """The organisation of the key that asks."""
        request = account_pb2.GetOrganizationRequest(org_id=caller.org_id)
        return Organization.of(await account.ask(account.accounts.GetOrganization, request))

    return router
