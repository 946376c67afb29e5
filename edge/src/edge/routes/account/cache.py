"""``.../cache``: how requests use the cache where they don't say. ``/cache/purge``, ``/cache/stats``: what it holds."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from edge.account import Account
from edge.auth import Authenticator
from edge.catalog import CatalogView
from edge.routes.account.guard import AccountCaller, CallerOf, account_router
from edge.routes.account.usage import DAY_S, DEFAULT_DAYS, MAX_DAYS
from edge.wire.account.cache import (
    CachePolicy,
    CachePolicyChange,
    CacheStats,
    OrganizationCachePolicyChange,
    Purge,
    Purged,
)
from meshkit.clock import Clock
from tallygate.cache.v1 import cache_pb2, recordings_pb2
from tallygate.ledger.v1 import account_pb2, audit_pb2, usage_pb2

Scope = Literal["key", "project", "organization"]
GroupBy = Literal["project", "model"]
Days = Annotated[int, Query(ge=1, le=MAX_DAYS, description="So many days of UTC, today among them.")]
By = Annotated[GroupBy | None, Query(description="Without it: only the total.")]
_PURGE_TIMEOUT_S = 30.0
"""A key prefix is looked for among all entries."""
_UNTIL_ALL_KNOW_MS = 10_000
"""An edge that lost its watch keeps what the ledger said for 5 s, and has requests recorded until then."""
_DIMENSIONS = {"project": usage_pb2.USAGE_DIMENSION_PROJECT, "model": usage_pb2.USAGE_DIMENSION_MODEL}


def cache_router(account: Account, authenticator: Authenticator, catalog: CatalogView, clock: Clock) -> APIRouter:
    """The resources."""
    router = account_router(authenticator, "Cache")
    _route_policies(router, account, authenticator)

    @router.post("/cache/purge", summary="Forget answers")
    async def purge_cache(caller: CallerOf, body: Purge | None = None) -> Purged:
        """Forgets the organisation's answers, or those of a project, of a model, or whose key begins so. With a project
        go the answers that projects share.
        """
        return await _purge(account, catalog, caller, body or Purge())

    @router.get("/cache/stats", summary="What the cache did")
    async def get_cache_stats(caller: CallerOf, days: Days = DEFAULT_DAYS, group_by: By = None) -> CacheStats:
        """Hit rate and savings, as the receipts have them, and what the cache holds."""
        now_s = clock.now_ms() // 1_000
        from_s = now_s - now_s % DAY_S - (days - 1) * DAY_S
        request = usage_pb2.QueryUsageRequest(
            org_id=caller.org_id,
            from_ms=from_s * 1_000,
            to_ms=(now_s + 1) * 1_000,
            group_by=[*([_DIMENSIONS[group_by]] if group_by else []), usage_pb2.USAGE_DIMENSION_SERVED_MODE],
        )
        used = await account.ask(account.usage.QueryUsage, request)
        held = await account.ask(account.cache.GetStats, cache_pb2.GetStatsRequest(org_id=caller.org_id))
        return CacheStats.of(group_by, used, held)

    return router


async def _purge(account: Account, catalog: CatalogView, caller: AccountCaller, body: Purge) -> Purged:
    org_id = caller.org_id
    request = cache_pb2.PurgeRequest(org_id=org_id)
    scope: Literal["organization", "project", "model", "key_prefix"] = "organization"
    scope_id = org_id
    if body.project_id is not None:
        asked = account_pb2.GetProjectRequest(org_id=org_id, project_id=body.project_id)
        await account.ask(account.accounts.GetProject, asked)  # else a slip of the pen would purge nothing, silently
        scope, scope_id, request.project_id = "project", body.project_id, body.project_id
    elif body.model is not None:
        request.model = catalog.resolve(body.model).id
        scope, scope_id = "model", request.model
    elif body.key_prefix is not None:
        scope, scope_id, request.key_prefix = "key_prefix", body.key_prefix, body.key_prefix
    told = audit_pb2.RecordCacheActionRequest(
        org_id=org_id, action=audit_pb2.CACHE_ACTION_PURGED, scope=scope, subject=scope_id
    )
    await account.tell(caller.actor, told)
    purged = await account.ask(account.cache.Purge, request, timeout_s=_PURGE_TIMEOUT_S)
    return Purged(scope=scope, scope_id=scope_id, forgotten=purged.forgotten if scope == "key_prefix" else None)


def _route_policies(router: APIRouter, account: Account, authenticator: Authenticator) -> None:
    @router.get("/organization/cache", summary="Get the cache policy of the organisation")
    async def get_organization_cache(caller: CallerOf) -> CachePolicy:
        """What the organisation says, and what is in force for whoever says nothing."""
        return await shown(caller, "organization", caller.org_id)

    @router.patch("/organization/cache", summary="Set the cache policy of the organisation")
    async def set_organization_cache(body: OrganizationCachePolicyChange, caller: CallerOf) -> CachePolicy:
        """Changes it, everywhere within a second. What is left out stays as it is. Turning `record_requests` off
        forgets what was recorded.
        """
        return await changed(caller, "organization", caller.org_id, body)

    @router.get("/projects/{project_id}/cache", summary="Get the cache policy of a project")
    async def get_project_cache(project_id: str, caller: CallerOf) -> CachePolicy:
        """What the project says, and what is in force for its keys that say nothing."""
        return await shown(caller, "project", project_id)

    @router.patch("/projects/{project_id}/cache", summary="Set the cache policy of a project")
    async def set_project_cache(project_id: str, body: CachePolicyChange, caller: CallerOf) -> CachePolicy:
        """Changes it, everywhere within a second. What is left out stays as it is."""
        return await changed(caller, "project", project_id, body)

    @router.get("/keys/{key_id}/cache", summary="Get the cache policy of a key")
    async def get_key_cache(key_id: str, caller: CallerOf) -> CachePolicy:
        """What the key says, and what is in force for its requests."""
        return await shown(caller, "key", key_id)

    @router.patch("/keys/{key_id}/cache", summary="Set the cache policy of a key")
    async def set_key_cache(key_id: str, body: CachePolicyChange, caller: CallerOf) -> CachePolicy:
        """Changes it, everywhere within a second. What is left out stays as it is."""
        return await changed(caller, "key", key_id, body)

    async def shown(caller: AccountCaller, scope: Scope, scope_id: str) -> CachePolicy:
        request = account_pb2.GetCachePolicyRequest(org_id=caller.org_id, **_subject(scope, scope_id))
        found = await account.ask(account.accounts.GetCachePolicy, request)
        return CachePolicy.placed(scope, scope_id, found)

    async def changed(caller: AccountCaller, scope: Scope, scope_id: str, body: CachePolicyChange) -> CachePolicy:
        request = account_pb2.UpdateCachePolicyRequest(
            org_id=caller.org_id, change=body.change(), actor=caller.actor, **_subject(scope, scope_id)
        )
        found = await account.ask(account.accounts.UpdateCachePolicy, request)
        # The watch tells all edges; whoever asks this one next finds the change made, also before that.
        if scope == "key":
            authenticator.forget(scope_id)
        else:
            authenticator.forget_organization(caller.org_id)
        if isinstance(body, OrganizationCachePolicyChange) and body.ends_recording:
            forgotten = recordings_pb2.ForgetRecordingsRequest(org_id=caller.org_id, grace_ms=_UNTIL_ALL_KNOW_MS)
            await account.ask(account.recordings.ForgetRecordings, forgotten)
        return CachePolicy.placed(scope, scope_id, found)


def _subject(scope: Scope, scope_id: str) -> dict[str, str]:
    return {} if scope == "organization" else {f"{scope}_id": scope_id}
