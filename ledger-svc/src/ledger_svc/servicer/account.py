"""``tallygate.ledger.v1.AccountService``: decode, call the service, encode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ledger_svc.domain.keys import ApiKey
from ledger_svc.service.accounts import AccountService
from ledger_svc.service.cache_policies import CachePolicyService
from ledger_svc.service.keys import KeyService
from ledger_svc.servicer.cache_policy_wire import cache_policy_change_from_proto, cache_policy_to_proto
from ledger_svc.servicer.refusals import ERRORS
from ledger_svc.servicer.wire import (
    KEY_STATUSES,
    actor_of,
    key_change_from_proto,
    key_to_proto,
    known,
    project_to_proto,
)
from meshkit.errors import maps_errors
from tallygate.ledger.v1 import account_pb2 as pb
from tallygate.ledger.v1 import ledger_pb2
from tallygate.ledger.v1.account_pb2_grpc import AccountServiceServicer

if TYPE_CHECKING:
    import grpc

    Context = grpc.aio.ServicerContext[Any, Any]


@maps_errors(ERRORS)
class AccountServicer(AccountServiceServicer):
    """The methods of account.proto."""

    def __init__(self, accounts: AccountService, keys: KeyService, policies: CachePolicyService) -> None:
        self._accounts = accounts
        self._keys = keys
        self._policies = policies

    async def ListProjects(self, request: pb.ListProjectsRequest, context: Context) -> pb.ListProjectsResponse:
        """See account.proto."""
        found, next_page_token = await self._accounts.projects(
            request.org_id, page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListProjectsResponse(projects=map(project_to_proto, found), next_page_token=next_page_token)

    async def GetProject(self, request: pb.GetProjectRequest, context: Context) -> pb.GetProjectResponse:
        """See account.proto."""
        return pb.GetProjectResponse(
            project=project_to_proto(await self._accounts.project(request.org_id, request.project_id))
        )

    async def UpdateProject(self, request: pb.UpdateProjectRequest, context: Context) -> pb.UpdateProjectResponse:
        """See account.proto."""
        project = await self._accounts.update_project(
            request.org_id,
            request.project_id,
            name=request.name if request.HasField("name") else None,
            actor=actor_of(request),
        )
        return pb.UpdateProjectResponse(project=project_to_proto(project))

    async def GetOrganization(self, request: pb.GetOrganizationRequest, context: Context) -> pb.GetOrganizationResponse:
        """See account.proto."""
        found = await self._accounts.organization(request.org_id)
        return pb.GetOrganizationResponse(org_id=found.org_id, name=found.name, created_at_ms=found.created_at_ms)

    async def GetKey(self, request: pb.GetKeyRequest, context: Context) -> pb.GetKeyResponse:
        """See account.proto."""
        return pb.GetKeyResponse(key=self._shown(await self._keys.get_key(request.key_id, request.org_id)))

    async def FindKeys(self, request: pb.FindKeysRequest, context: Context) -> pb.FindKeysResponse:
        """See account.proto."""
        found, next_page_token = await self._keys.find_keys(
            request.org_id,
            project_id=request.project_id,
            status=known("status", KEY_STATUSES, request.status) if request.status else None,
            page_size=request.page_size,
            page_token=request.page_token,
        )
        return pb.FindKeysResponse(keys=map(self._shown, found), next_page_token=next_page_token)

    async def UpdateKey(self, request: pb.UpdateKeyRequest, context: Context) -> pb.UpdateKeyResponse:
        """See account.proto."""
        key = await self._keys.update_key(
            request.key_id, request.org_id, key_change_from_proto(request), actor=actor_of(request)
        )
        return pb.UpdateKeyResponse(key=self._shown(key))

    async def RotateKey(self, request: pb.RotateKeyRequest, context: Context) -> pb.RotateKeyResponse:
        """See account.proto."""
        key, secret, former_ends_at_ms = await self._keys.rotate_key(
            request.key_id, request.org_id, overlap_ms=request.overlap_ms, actor=actor_of(request)
        )
        return pb.RotateKeyResponse(key=self._shown(key), secret=secret, former_secret_expires_at_ms=former_ends_at_ms)

    async def GetCachePolicy(self, request: pb.GetCachePolicyRequest, context: Context) -> pb.GetCachePolicyResponse:
        """See account.proto."""
        policy, in_force = await self._policies.policy(
            request.org_id, project_id=request.project_id, key_id=request.key_id
        )
        return pb.GetCachePolicyResponse(policy=cache_policy_to_proto(policy), in_force=cache_policy_to_proto(in_force))

    async def UpdateCachePolicy(
        self, request: pb.UpdateCachePolicyRequest, context: Context
    ) -> pb.UpdateCachePolicyResponse:
        """See account.proto."""
        policy, in_force = await self._policies.update_policy(
            request.org_id,
            cache_policy_change_from_proto(request.change),
            project_id=request.project_id,
            key_id=request.key_id,
            actor=actor_of(request),
        )
        return pb.UpdateCachePolicyResponse(
            policy=cache_policy_to_proto(policy), in_force=cache_policy_to_proto(in_force)
        )

    def _shown(self, key: ApiKey) -> ledger_pb2.Key:
        return key_to_proto(key, self._keys.status_of(key), self._keys.cache_in_force(key))
