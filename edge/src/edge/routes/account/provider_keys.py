"""``/provider-keys``: an organisation's own keys at sources."""

from __future__ import annotations

from fastapi import APIRouter

from edge.account import Account
from edge.auth import Authenticator
from edge.catalog import CatalogView
from edge.errors import invalid
from edge.routes.account.guard import CallerOf, Cursor, Limit, account_router
from edge.wire.account.base import Page
from edge.wire.account.provider_keys import NewProviderKey, ProviderKey, RotatedProviderKey
from meshkit.errors import MeshError
from tallygate.ledger.v1 import provider_keys_pb2 as pb

_SOURCE = "source_id"


def provider_keys_router(account: Account, authenticator: Authenticator, catalog: CatalogView) -> APIRouter:
    """The resource. ``catalog`` knows which sources there are."""
    router, keys = account_router(authenticator, "Provider keys"), account.provider_keys

    @router.get("/provider-keys", summary="List provider keys")
    async def list_provider_keys(caller: CallerOf, limit: Limit = 50, cursor: Cursor = "") -> Page[ProviderKey]:
        """The provider keys of the organisation, revoked ones too, oldest first."""
        request = pb.ListProviderKeysRequest(org_id=caller.org_id, page_size=limit, page_token=cursor)
        found = await account.ask(keys.ListProviderKeys, request)
        return Page[ProviderKey].of([ProviderKey.of(key) for key in found.provider_keys], found.next_page_token)

    @router.post("/provider-keys", status_code=201, summary="Bring a provider key")
    async def create_provider_key(body: NewProviderKey, caller: CallerOf) -> ProviderKey:
        """Stores a key of the organisation for a source. Its requests are sent there with this key from now on."""
        catalog.check_takes_keys(body.source)
        request = pb.CreateProviderKeyRequest(
            org_id=caller.org_id,
            source_id=body.source,
            name=body.name,
            secret=body.secret.get_secret_value(),
            fallback=body.fallback,
            actor=caller.actor,
        )
        try:
            made = await account.ask(keys.CreateProviderKey, request)
        except MeshError as error:
            if error.metadata.get("param") == _SOURCE:
                raise invalid(f"source{error.message.removeprefix(_SOURCE)}", "source") from error
            raise
        return ProviderKey.of(made.provider_key)

    @router.get("/provider-keys/{provider_key_id}", summary="Get a provider key")
    async def get_provider_key(provider_key_id: str, caller: CallerOf) -> ProviderKey:
        """One provider key. Never its secret."""
        request = pb.GetProviderKeyRequest(org_id=caller.org_id, provider_key_id=provider_key_id)
        return ProviderKey.of((await account.ask(keys.GetProviderKey, request)).provider_key)

    @router.post("/provider-keys/{provider_key_id}/rotate", summary="Replace a provider key's secret")
    async def rotate_provider_key(provider_key_id: str, body: RotatedProviderKey, caller: CallerOf) -> ProviderKey:
        """Puts another secret in the place of the stored one, which is gone then."""
        request = pb.RotateProviderKeyRequest(
            org_id=caller.org_id,
            provider_key_id=provider_key_id,
            secret=body.secret.get_secret_value(),
            actor=caller.actor,
        )
        return ProviderKey.of((await account.ask(keys.RotateProviderKey, request)).provider_key)

    @router.delete("/provider-keys/{provider_key_id}", summary="Revoke a provider key")
    async def revoke_provider_key(provider_key_id: str, caller: CallerOf) -> ProviderKey:
        """Ends a provider key and erases its secret. Requests are sent with the operator's key again, at its price."""
        request = pb.RevokeProviderKeyRequest(org_id=caller.org_id, provider_key_id=provider_key_id, actor=caller.actor)
        return ProviderKey.of((await account.ask(keys.RevokeProviderKey, request)).provider_key)

    return router
