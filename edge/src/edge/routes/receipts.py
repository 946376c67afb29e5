"""``GET /receipts/{id}`` and ``GET /receipts/{id}/proof``."""

from __future__ import annotations

import orjson
from starlette.requests import Request
from starlette.responses import Response

from edge.auth import Authenticator
from edge.errors import refusal
from edge.mesh import Ledger
from edge.routes.log import size_of
from edge.wire.log import proof_json
from edge.wire.receipts import receipt_json
from meshkit.errors import MeshError
from meshkit.money import format_usd
from tallygate.common.v1.errors_pb2 import ErrorReason


class Receipts:
    """The resource. A receipt of another organisation is not there."""

    def __init__(self, authenticator: Authenticator, ledger: Ledger) -> None:
        self._authenticator = authenticator
        self._ledger = ledger

    async def retrieve(self, request: Request) -> Response:
        """One receipt of the caller's organisation, with its signed form."""
        principal = (await self._authenticator.authenticate(request)).principal
        receipt_id = request.path_params["receipt_id"]
        try:
            found = await self._ledger.receipt(principal.org_id, receipt_id)
        except MeshError as error:
            raise _named(error, receipt_id) from error
        given_back = {"corrected_usd": format_usd(found.corrected_nano_usd)}
        return _json(receipt_json(found.receipt) | given_back | {"jws": found.jws})

    async def prove(self, request: Request) -> Response:
        """What proves a receipt to anyone. ``tree_size``: in an older checkpoint; ``since``: and that the log only grew
        since the checkpoint of that size.
        """
        principal = (await self._authenticator.authenticate(request)).principal
        receipt_id = request.path_params["receipt_id"]
        tree_size, since = size_of(request, "tree_size", default=0), size_of(request, "since", default=-1)
        try:
            found = await self._ledger.inclusion_proof(principal.org_id, receipt_id, tree_size)
        except MeshError as error:
            raise _named(error, receipt_id) from error
        # A client that has pinned a newer state than it asks about gets the proof that leads there.
        sizes = sorted((since, found.tree_size))
        consistency = None if since < 0 else await self._ledger.consistency_proof(*sizes)
        return _json(proof_json(receipt_id, found, await self._ledger.signing_keys(), consistency))


def _named(error: MeshError, receipt_id: str) -> MeshError:
    if error.reason == ErrorReason.ERROR_REASON_NOT_FOUND:
        return refusal(error.reason, f"There is no receipt `{receipt_id[:100]}`.")
    return error


def _json(body: dict[str, object]) -> Response:
    return Response(orjson.dumps(body), media_type="application/json")
