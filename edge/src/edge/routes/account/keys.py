"""``/keys``: what an organisation's programs and people are let in by. ``/key``: the one that asks."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from edge.account import Account
from edge.auth import Authenticator
from edge.errors import invalid
from edge.routes.account.guard import CallerOf, Cursor, Limit, account_router
from edge.wire.account.base import Page
from edge.wire.account.cache import CACHE_DEFAULTS, FIELDS
from edge.wire.account.keys import (
    REGIONS,
    STATUSES,
    Key,
    KeyChanges,
    KeyWithSecret,
    NewKey,
    RotatedKey,
    Rotation,
    Status,
)
from meshkit.errors import MeshError
from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.ledger.v1 import account_pb2, ledger_pb2

OfProject = Annotated[str, Query(max_length=200, description="Only those of this project.")]
InState = Annotated[Status | None, Query(alias="status", description="Only those in this state.")]


def keys_router(account: Account, authenticator: Authenticator) -> APIRouter:
    """The resource."""
    router = account_router(authenticator, "Keys")

    @router.get("/keys", summary="List keys")
    async def list_keys(
        caller: CallerOf, project_id: OfProject = "", in_state: InState = None, limit: Limit = 50, cursor: Cursor = ""
    ) -> Page[Key]:
        """The keys of the organisation, newest first, without secrets."""
        request = account_pb2.FindKeysRequest(
            org_id=caller.org_id,
            project_id=project_id,
            status=STATUSES[in_state] if in_state else ledger_pb2.KEY_STATUS_UNSPECIFIED,
            page_size=limit,
            page_token=cursor,
        )
        found = await account.ask(account.accounts.FindKeys, request)
        return Page[Key].of([Key.of(key) for key in found.keys], found.next_page_token)

    @router.post("/keys", status_code=201, summary="Make a key")
    async def create_key(body: NewKey, caller: CallerOf) -> KeyWithSecret:
        """Makes a key. Its secret is in the answer and nowhere else."""
        request = ledger_pb2.CreateKeyRequest(
            org_id=caller.org_id,
            project_id=caller.project_id if body.project_id is None else body.project_id,
            name=body.name,
            allowed_models=body.allowed_models,
            expires_at_ms=1_000 * (body.expires_at or 0),
            policy=body.policy(),
            actor=caller.actor,
        )
        try:
            made = await account.ask(account.ledger.CreateKey, request)
        except MeshError as error:
            raise _in_our_words(error) from error
        return KeyWithSecret.made(made.key, made.secret)

    @router.get("/keys/{key_id}", summary="Get a key")
    async def get_key(key_id: str, caller: CallerOf) -> Key:
        """One key, without its secret."""
        request = account_pb2.GetKeyRequest(org_id=caller.org_id, key_id=key_id)
        return Key.of((await account.ask(account.accounts.GetKey, request)).key)

    _route_changes(router, account, authenticator)
    return router


def _route_changes(router: APIRouter, account: Account, authenticator: Authenticator) -> None:
    @router.patch("/keys/{key_id}", summary="Change a key")
    async def update_key(key_id: str, body: KeyChanges, caller: CallerOf) -> Key:
        """Changes what a key may do, everywhere within a second. What is left out stays as it is."""
        request = change_request(body)
        request.org_id, request.key_id = caller.org_id, key_id
        request.actor.CopyFrom(caller.actor)
        try:
            changed = await account.ask(account.accounts.UpdateKey, request)
        except MeshError as error:
            raise _in_our_words(error) from error
        # The watch tells all edges; whoever asks this one next finds the change made, also before that.
        authenticator.forget(key_id)
        return Key.of(changed.key)

    @router.delete("/keys/{key_id}", summary="Revoke a key")
    async def revoke_key(key_id: str, caller: CallerOf) -> Key:
        """Ends a key for good, everywhere within a second. Again: the same answer."""
        request = ledger_pb2.RevokeKeyRequest(org_id=caller.org_id, key_id=key_id, actor=caller.actor)
        revoked = await account.ask(account.ledger.RevokeKey, request)
        authenticator.forget(key_id)
        return Key.of(revoked.key)

    @router.post("/keys/{key_id}/rotate", summary="Give a key a new secret")
    async def rotate_key(key_id: str, body: Rotation, caller: CallerOf) -> RotatedKey:
        """The key stays what it is, with its caps and its usage. Both secrets are valid while they overlap."""
        request = account_pb2.RotateKeyRequest(
            org_id=caller.org_id, key_id=key_id, overlap_ms=1_000 * body.overlap_s, actor=caller.actor
        )
        rotated = await account.ask(account.accounts.RotateKey, request)
        authenticator.forget(key_id)
        return RotatedKey.rotated(rotated.key, rotated.secret, rotated.former_secret_expires_at_ms)


def own_key_router(account: Account, authenticator: Authenticator) -> APIRouter:
    """``/key``."""
    router = account_router(authenticator, "Keys", any_key=True)

    @router.get("/key", summary="Get the key that asks")
    async def get_own_key(caller: CallerOf) -> Key:
        """What the key of this request is and may do, with the limits in force. Any key may ask."""
        request = account_pb2.GetKeyRequest(org_id=caller.org_id, key_id=caller.key_id)
        return Key.of((await account.ask(account.accounts.GetKey, request)).key, caller.policy)

    return router


def change_request(body: KeyChanges) -> account_pb2.UpdateKeyRequest:
    """What the client sent, and nothing else."""
    request = account_pb2.UpdateKeyRequest()
    if body.given("name"):
        request.name = body.name
    if body.given("read_only"):
        request.read_only = body.read_only
    if body.given("expires_at"):
        request.expires_at_ms = 1_000 * (body.expires_at or 0)
    if body.given("region"):
        request.region = REGIONS[body.region]
    _change_cache(request, body)
    if body.given("allowed_models"):
        request.allowed_models.CopyFrom(account_pb2.TextList(values=body.allowed_models))
    if body.given("allowed_cidrs"):
        request.allowed_cidrs.CopyFrom(account_pb2.TextList(values=body.allowed_cidrs))
    if body.given("requests_per_minute"):
        request.requests_per_minute.CopyFrom(account_pb2.MinuteLimit(per_minute=body.requests_per_minute))
    if body.given("tokens_per_minute"):
        request.tokens_per_minute.CopyFrom(account_pb2.MinuteLimit(per_minute=body.tokens_per_minute))
    return request


def _change_cache(request: account_pb2.UpdateKeyRequest, body: KeyChanges) -> None:
    if body.cache:
        request.cache.CopyFrom(body.cache.change())
    elif body.given("cache"):
        request.cache.fields.paths.extend(FIELDS)
    if body.cache_default:
        request.cache_default = CACHE_DEFAULTS[body.cache_default]
    elif body.given("cache_default"):
        request.cache.fields.paths.append("default")


def _in_our_words(error: MeshError) -> MeshError:
    """Times are seconds here, not milliseconds."""
    if error.reason == ErrorReason.ERROR_REASON_INVALID_REQUEST and error.metadata.get("param") == "expires_at_ms":
        return invalid(error.message.replace("expires_at_ms", "expires_at"), "expires_at")
    return error
