"""One HTTP request and its answer, as the edge knows them: what the span, the log line and the headers are made of."""

from __future__ import annotations

from dataclasses import dataclass, field

from starlette.types import Scope

_SCOPE_KEY = "tallygate.exchange"


@dataclass(slots=True)
class Exchange:
    """Facts of one exchange, filled in as they become known. Never a prompt, an answer or a secret."""

    request_id: str
    """"req_..."; unique in the organisation, so that the ledger charges once for it. All requests with the same
    Idempotency-Key get that of the one that was charged."""
    trace_id: str
    """32 hex digits."""
    started_at_ms: int = 0
    """The request arrived at, Unix time in milliseconds."""
    is_inference: bool = False
    """It came to a route that calls models."""
    status: int = 0
    """The HTTP status sent; 0 before the answer began."""
    address: str = ""
    """Of the client; empty: not known, or no key was asked about."""
    org_id: str = ""
    project_id: str = ""
    key_id: str = ""
    requested_model: str = ""
    model: str = ""
    served_mode: str = ""
    receipt_id: str = ""
    idempotent_replayed: bool = False
    """The answer is that of an earlier request with the same Idempotency-Key."""
    tags: dict[str, str] = field(default_factory=dict)
    """The client's names for the request."""
    error_code: str = ""
    """The code of the OpenAI error sent, also of one that came after the answer had begun."""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Headers of the answer whatever it is, an error too."""
    input_tokens: int = 0
    """Known when there is a receipt, as are those of the answer."""
    output_tokens: int = 0

    @property
    def generation_id(self) -> str:
        """ "gen_..."; the same letters as the request id, so that either is found by the other."""
        return "gen_" + self.request_id.removeprefix("req_")

    def attach(self, scope: Scope) -> None:
        """Makes this the exchange of the ASGI ``scope``."""
        scope[_SCOPE_KEY] = self

    @staticmethod
    def of(scope: Scope) -> Exchange:
        """The exchange of an ASGI scope that came through ``edge.observe``."""
        exchange = scope[_SCOPE_KEY]
        assert isinstance(exchange, Exchange)
        return exchange


class ClientGone(Exception):
    """The client closed the connection before the answer was whole. Nobody is left to be told."""
