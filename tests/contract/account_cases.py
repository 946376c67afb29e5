"""Cases of the ledger's account service."""

from __future__ import annotations

from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.ledger.v1 import account_pb2
from tests.contract.cases import TIMEOUT_S, covers, refused
from tests.contract.world import World


@covers("AccountService/ListProjects")
async def list_projects(world: World) -> None:
    request = account_pb2.ListProjectsRequest(org_id=world.org_id, page_size=1)
    first = await world.accounts.ListProjects(request, timeout=TIMEOUT_S)
    assert [project.project_id for project in first.projects] == [world.project_id]
    foreign = account_pb2.ListProjectsRequest(org_id=world.org_id, page_token="x")
    await refused(world.accounts.ListProjects(foreign, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_INVALID_REQUEST)


@covers("AccountService/GetProject")
async def get_project(world: World) -> None:
    request = account_pb2.GetProjectRequest(org_id=world.org_id, project_id=world.project_id)
    found = await world.accounts.GetProject(request, timeout=TIMEOUT_S)
    assert (found.project.name, found.project.org_id) == ("contract", world.org_id)
    request = account_pb2.GetProjectRequest(org_id="org_other", project_id=world.project_id)
    await refused(world.accounts.GetProject(request, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_NOT_FOUND)
