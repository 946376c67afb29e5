"""``GET /api/health``, whether this process lives, and ``GET /readyz``, whether it can serve."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from edge.catalog import CatalogView
from edge.mesh import Probe

_OK, _DEGRADED, _AWAY = "ok", "degraded", "unavailable"
RATE_LIMITS = "rate_limits"
"""What edges keep the limits of keys in. Without it each keeps them by itself."""
_DISPENSABLE = {"cache", RATE_LIMITS}


class Health:
    """The two resources; neither asks for a key. ``probes``: of what this service depends on, by name."""

    def __init__(self, probes: Mapping[str, Probe], catalog: CatalogView, version: str) -> None:
        self._probes = probes
        self._catalog = catalog
        self._version = version

    async def live(self, _: Request) -> Response:
        """200 as long as the process answers."""
        return _json({"status": _OK, "service": "edge", "version": self._version})

    async def ready(self, _: Request) -> Response:
        """200 if requests can be served, with or without the cache and the shared rate limits; 503 if not. Says of each
        dependency how it is.
        """
        names = list(self._probes)
        serving = await asyncio.gather(*(probe.serving() for probe in self._probes.values()))
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
