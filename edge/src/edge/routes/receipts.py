"""``GET /receipts/{id}``."""

from __future__ import annotations

import orjson
from starlette.requests import Request
from starlette.responses import Response

from edge.auth import Authenticator
from edge.errors import refusal
from edge.mesh import Ledger
from edge.wire.receipts import receipt_json
from meshkit.errors import MeshError
from tallygate.common.v1.errors_pb2 import ErrorReason


class Receipts:
    """The resource. A receipt of another organisation is not there."""

    def __init__(self, authenticator: Authenticator, ledger: Ledger) -> None:
        self._authenticator = authenticator
        self._ledger = ledger

    async def retrieve(self, request: Request) -> Response:
        """One receipt of the caller's organisation."""
        principal = await self._authenticator.authenticate(request)
        receipt_id = request.path_params["receipt_id"]
        try:
            receipt = await self._ledger.receipt(principal.org_id, receipt_id)
        except MeshError as error:
            if error.reason == ErrorReason.ERROR_REASON_NOT_FOUND:
                raise refusal(error.reason, f"There is no receipt `{receipt_id[:100]}`.") from error
            raise
        return Response(orjson.dumps(receipt_json(receipt)), media_type="application/json")
