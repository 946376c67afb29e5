"""``/projects``: what an organisation divides its keys and its spending into."""

from __future__ import annotations

from fastapi import APIRouter

from edge.account import Account
from edge.auth import Authenticator
from edge.routes.account.guard import CallerOf, Cursor, Limit, account_router
from edge.wire.account.base import Page
from edge.wire.account.projects import NewProject, Project, ProjectChanges
from tallygate.ledger.v1 import account_pb2, ledger_pb2


def projects_router(account: Account, authenticator: Authenticator) -> APIRouter:
    """The resource."""
    router = account_router(authenticator, "Projects")

    @router.get("/projects", summary="List projects")
    async def list_projects(caller: CallerOf, limit: Limit = 50, cursor: Cursor = "") -> Page[Project]:
        """The projects of the organisation, oldest first."""
        request = account_pb2.ListProjectsRequest(org_id=caller.org_id, page_size=limit, page_token=cursor)
        found = await account.ask(account.accounts.ListProjects, request)
        return Page[Project].of([Project.of(project) for project in found.projects], found.next_page_token)

    @router.post("/projects", status_code=201, summary="Make a project")
    async def create_project(body: NewProject, caller: CallerOf) -> Project:
        """Makes a project."""
        request = ledger_pb2.CreateProjectRequest(org_id=caller.org_id, name=body.name, actor=caller.actor)
        made = await account.ask(account.ledger.CreateProject, request)
        return await _project(caller.org_id, made.project_id)

    @router.get("/projects/{project_id}", summary="Get a project")
    async def get_project(project_id: str, caller: CallerOf) -> Project:
        """One project."""
        return await _project(caller.org_id, project_id)

    @router.patch("/projects/{project_id}", summary="Change a project")
    async def update_project(project_id: str, body: ProjectChanges, caller: CallerOf) -> Project:
        """Gives a project another name."""
        request = account_pb2.UpdateProjectRequest(
            org_id=caller.org_id, project_id=project_id, name=body.name, actor=caller.actor
        )
        return Project.of((await account.ask(account.accounts.UpdateProject, request)).project)

    async def _project(org_id: str, project_id: str) -> Project:
        request = account_pb2.GetProjectRequest(org_id=org_id, project_id=project_id)
        return Project.of((await account.ask(account.accounts.GetProject, request)).project)

    return router
