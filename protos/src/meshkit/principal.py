"""Who is calling, as the ledger authenticated it, and who changes something."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class Principal:
    """Organisation, project and key of a caller. ``allowed_models``: model ids or globs; empty means any."""

    org_id: str
    project_id: str
    key_id: str
    allowed_models: tuple[str, ...] = ()


class ActorKind(Enum):
    """What kind of thing changes something."""

    OPERATOR = "operator"
    API_KEY = "api_key"
    SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who changes something, and from where; see actor.proto."""

    kind: ActorKind = ActorKind.OPERATOR
    id: str = ""
    address: str = ""
    trace_id: str = ""


OPERATOR = Actor()
"""Whoever reaches a service directly."""
