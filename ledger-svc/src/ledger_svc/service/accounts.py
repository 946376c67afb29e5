"""What an organisation is and has: itself and its projects."""

from __future__ import annotations

from dataclasses import replace

from ledger_svc.domain.limits import check_name, check_text
from ledger_svc.domain.projects import Organization, Project
from ledger_svc.domain.trail import TrailEntry
from ledger_svc.service.paging import check_page_size, page_of, position_of_token
from ledger_svc.service.ports import Directory
from ledger_svc.service.telling import Telling
from meshkit.clock import Clock
from meshkit.ids import MakeId
from meshkit.principal import OPERATOR, Actor


class AccountService:
    """The organisation, and its projects by id and by page."""

    def __init__(self, directory: Directory, clock: Clock, make_id: MakeId) -> None:
        self._directory = directory
        self._telling = Telling(clock, make_id)

    async def organization(self, org_id: str) -> Organization:
        """Raises:
        NotFound.
        """
        return await self._directory.organization(check_text("org_id", org_id))

    async def projects(self, org_id: str, *, page_size: int, page_token: str) -> tuple[list[Project], str]:
        """Projects of an organisation, oldest first, and the token of the next page ("": there is none)."""
        size = check_page_size(page_size)
        found = await self._directory.projects(
            check_text("org_id", org_id), limit=size + 1, after=position_of_token(page_token)
        )
        return page_of(found, size, lambda project: (project.created_at_ms, project.project_id))

    async def project(self, org_id: str, project_id: str) -> Project:
        """Raises:
        NotFound: also where it is another organisation's.
        """
        return await self._directory.project(check_text("org_id", org_id), check_text("project_id", project_id))

    async def update_project(
        self, org_id: str, project_id: str, *, name: str | None, actor: Actor = OPERATOR
    ) -> Project:
        """Gives a project another name; None: the one that it has.

        Raises:
            NotFound: also where it is another organisation's.
            InvalidRequest: also where the organisation has another project of this name.
        """
        if name is not None:
            check_name("name", name)

        def change(project: Project) -> Project:
            return project if name is None else replace(project, name=name)

        def entry_of(before: Project, after: Project) -> TrailEntry:
            return self._telling.entry(
                org_id, actor, "project.updated", project_id, before={"name": before.name}, after={"name": after.name}
            )

        return await self._directory.change_project(
            check_text("org_id", org_id), check_text("project_id", project_id), change, entry_of
        )
