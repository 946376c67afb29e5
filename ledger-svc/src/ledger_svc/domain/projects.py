"""Organisations, and projects: what an organisation divides its keys and its spending into."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Organization:
    """An organisation; times in Unix milliseconds."""

    org_id: str
    name: str
    created_at_ms: int


@dataclass(frozen=True, slots=True)
class Project:
    """A project. ``name`` is unique in the organisation; times in Unix milliseconds."""

    project_id: str
    org_id: str
    name: str
    created_at_ms: int
