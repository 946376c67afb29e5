"""``GET /log/checkpoint``, ``GET /log/consistency`` and ``GET /.well-known/jwks.json``: the public face of the log.

None asks for a key: a checkpoint says how many receipts there are and nothing of what they say, and whoever watches the
log must be able to without being a customer.
"""

from __future__ import annotations

import orjson
from starlette.requests import Request
from starlette.responses import Response

from edge.errors import invalid
from edge.mesh import Ledger
from edge.wire.log import consistency_json, jwks_json

MAX_SIZE = 2**53 - 1


class Log:
    """The three resources."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def checkpoint(self, request: Request) -> Response:
        """The newest signed state of the log, or that of ``tree_size``: a signed note, as text."""
        found = await self._ledger.checkpoint(size_of(request, "tree_size", default=0))
        return Response(found.checkpoint, headers={"cache-control": "no-store"}, media_type="text/plain; charset=utf-8")

    async def consistency(self, request: Request) -> Response:
        """Proves that the log at size ``first`` begins the log at size ``second``, or at the newest checkpoint."""
        first, second = size_of(request, "first"), size_of(request, "second", default=0)
        found = await self._ledger.consistency_proof(first, second)
        return Response(orjson.dumps(consistency_json(found)), media_type="application/json")

    async def keys(self, _: Request) -> Response:
        """The public keys, former ones among them."""
        body = orjson.dumps(jwks_json(await self._ledger.signing_keys()))
        return Response(body, headers={"cache-control": "public, max-age=300"}, media_type="application/jwk-set+json")


def size_of(request: Request, name: str, *, default: int | None = None) -> int:
    """A tree size of the query; ``default`` where it is not given.

    Raises:
        MeshError: INVALID_REQUEST; not a number from 0 on, or needed and not given.
    """
    text = request.query_params.get(name)
    if text is None and default is not None:
        return default
    if text is None or not (text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= MAX_SIZE):
        raise invalid(f"`{name}` is the size of a checkpoint: an integer from 0 on.", name)
    return int(text)
