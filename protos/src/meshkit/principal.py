"""Who is calling, as the ledger authenticated it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Principal:
    """Organisation, project and key of a caller. ``allowed_models``: model ids or globs; empty means any."""

    org_id: str
    project_id: str
    key_id: str
    allowed_models: tuple[str, ...] = ()
