"""``GET /api/health``, whether this process lives, and ``GET /readyz``, whether it can serve."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from edge.catalog import CatalogView
from edge.mesh import Mesh

_OK, _DEGRADED, _AWAY = "ok", "degraded", "unavailable"
_DISPENSABLE = {"cache"}


class Health:
    """The two resources; neither asks for a key."""

    def __init__(self, mesh: Mesh, catalog: CatalogView, version: str) -> None:
        self._mesh = mesh
        self._catalog = catalog
        self._version = version

    async def live(self, _: Request) -> Response:
        """200 as long as the process answers."""
        return _json({"status": _OK, "service": "edge", "version": self._version})

    async def ready(self, _: Request) -> Response:
        """200 if requests can be served, with or without the cache; 503 if not. Says of each dependency how it is."""
        names = list(self._mesh.probes)
        serving = await asyncio.gather(*(self._mesh.probes[name].serving() for name in names))
        dependencies = {name: self._dependency(name, up) for name, up in zip(names, serving, strict=True)}
        worst = {dependency["status"] for dependency in dependencies.values()}
        ready = _AWAY not in worst
        status = ("degraded" if _DEGRADED in worst else "ready") if ready else "unready"
        body = {"status": status, "version": self._version, "dependencies": dependencies}
        return _json(body, 200 if ready else 503)

    def _dependency(self, name: str, serving: bool) -> dict[str, Any]:
        if name == "catalog":
            # A snapshot is enough to serve by; without the catalog it only grows old.
            revision = self._catalog.revision
            status = _AWAY if not revision else _OK if serving else _DEGRADED
            return {"status": status, "revision": revision or None}
        return {"status": _OK if serving else _DEGRADED if name in _DISPENSABLE else _AWAY}


def _json(body: dict[str, Any], status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, {"cache-control": "no-store"}, "application/json")
