"""``tallygate.ledger.v1.AccountService``: decode, call the service, encode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ledger_svc.service.accounts import AccountService
from ledger_svc.servicer.refusals import ERRORS
from ledger_svc.servicer.wire import project_to_proto
from meshkit.errors import maps_errors
from tallygate.ledger.v1 import account_pb2 as pb
from tallygate.ledger.v1.account_pb2_grpc import AccountServiceServicer

if TYPE_CHECKING:
    import grpc

    Context = grpc.aio.ServicerContext[Any, Any]


@maps_errors(ERRORS)
class AccountServicer(AccountServiceServicer):
    """The methods of account.proto."""

    def __init__(self, accounts: AccountService) -> None:
        self._accounts = accounts

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
