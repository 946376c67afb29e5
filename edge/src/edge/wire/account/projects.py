"""The JSON of a project."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edge.wire.account.base import Answer, Body
from tallygate.ledger.v1 import account_pb2


class NewProject(Body):
    """A project to make."""

    name: str = Field(min_length=1, max_length=100, description="Unique in the organisation.", examples=["web"])


class ProjectChanges(Body):
    """What a project is to have."""

    name: str = Field(min_length=1, max_length=100, description="Unique in the organisation.", examples=["website"])


class Project(Answer):
    """A project."""

    id: str = Field(examples=["prj_01kb2r4h6tj8m0n2p4q6s8v0x2"])
    object: Literal["project"] = "project"
    name: str
    created_at: int = Field(description="Unix time in seconds.")

    @classmethod
    def of(cls, project: account_pb2.Project) -> Project:
        """As the ledger has it."""
        return cls(id=project.project_id, name=project.name, created_at=project.created_at_ms // 1_000)
