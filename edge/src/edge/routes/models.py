"""``GET /models`` and ``GET /models/{id}``."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from edge.auth import Authenticator
from edge.catalog import CatalogView


class Models:
    """The resource. The JSON is made once a revision."""

    def __init__(self, authenticator: Authenticator, catalog: CatalogView) -> None:
        self._authenticator = authenticator
        self._catalog = catalog

    async def list(self, request: Request) -> Response:
        """All models and aliases."""
        await self._authenticator.authenticate(request)
        return Response(self._catalog.listing_json(), media_type="application/json")

    async def retrieve(self, request: Request) -> Response:
        """One of them; an id may contain slashes."""
        await self._authenticator.authenticate(request)
        return Response(self._catalog.object_json(request.path_params["model_id"]), media_type="application/json")
