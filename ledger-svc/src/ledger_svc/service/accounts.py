"""Reading what an organisation has: its projects."""

from __future__ import annotations

from ledger_svc.domain.limits import check_text
from ledger_svc.domain.projects import Project
from ledger_svc.service.paging import check_page_size, page_of, position_of_token
from ledger_svc.service.ports import Directory


class AccountService:
    """Projects by id and by page."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

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
