"""What the OpenAPI document says of the routes whose handlers take the bare request, and how the document is made.

The routes of the account describe themselves (see ``edge.routes.account``). Those that call models or read receipts are
written by hand, for speed; so is their description here. The document is OpenAPI 3.1, at ``/openapi.json``; a test asks
the API what it allows, and some things that it does not, and compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from edge.wire.account.base import ErrorBody, refused
from edge.wire.described import (
    CACHE_CONTROLS,
    CHAT_ANSWER,
    CHAT_HEADERS,
    CHAT_REQUEST,
    CONSISTENCY,
    HEALTH,
    JWKS,
    MODEL,
    MODEL_LIST,
    PROOF,
    READINESS,
    RECEIPT,
    SSE,
    size_parameter,
)

SHOWN_PREFIX = "/v1"
"""The routes are shown under it only; ``/api/v1`` has the same."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Described:
    """One route. ``ok``: the content of its 200 by media type; ``public``: it asks for no key."""

    summary: str
    tag: str
    ok: Mapping[str, Json]
    errors: tuple[int, ...] = ()
    parameters: tuple[Json, ...] = ()
    body: Json | None = None
    headers: Mapping[str, Json] = field(default_factory=dict)
    also: Mapping[int, Mapping[str, Json]] = field(default_factory=dict)
    """Content of other statuses that are no errors in OpenAI's form."""
    public: bool = False

    def arguments(self) -> Json:
        """For ``FastAPI.add_api_route``."""
        extra: Json = {"parameters": list(self.parameters)} if self.parameters else {}
        if self.body is not None:
            extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": self.body}}}
        if not self.public:
            extra["security"] = [{"HTTPBearer": []}]
        ok: Json = {"description": "Done.", "content": _content(self.ok)}
        if self.headers:
            ok["headers"] = dict(self.headers)
        errors = self.errors if self.public else (401, 403, *self.errors)
        responses: dict[int | str, Json] = refused(*sorted({*errors, 500, 503, 504} - {*self.also}))
        responses[200] = ok
        for status, by_type in self.also.items():
            responses[status] = {"description": "Not ready.", "content": _content(by_type)}
        return {"summary": self.summary, "tags": [self.tag], "responses": responses, "openapi_extra": extra}


def _content(by_type: Mapping[str, Json]) -> Json:
    return {media_type: {"schema": schema} for media_type, schema in by_type.items()}


_JSON = "application/json"
CHAT = Described(
    "Answer a conversation",
    "Chat",
    {_JSON: CHAT_ANSWER, "text/event-stream": SSE},
    errors=(400, 402, 404, 409, 413, 429, 502),
    parameters=CACHE_CONTROLS,
    body=CHAT_REQUEST,
    headers=CHAT_HEADERS,
)
MODELS = Described("List models", "Models", {_JSON: MODEL_LIST})
ONE_MODEL = Described("Get a model", "Models", {_JSON: MODEL}, errors=(404,))
ONE_RECEIPT = Described("Get a receipt", "Receipts", {_JSON: RECEIPT}, errors=(400, 404))
RECEIPT_PROOF = Described(
    "Prove a receipt",
    "Receipts",
    {_JSON: PROOF},
    errors=(400, 404),
    parameters=(
        size_parameter("tree_size", "The size of the checkpoint to prove it in; left out: the newest."),
        size_parameter("since", "And that the log only grew since the checkpoint of this size."),
    ),
)
CHECKPOINT = Described(
    "The log's newest signed state",
    "Log",
    {"text/plain": {"type": "string"}},
    errors=(400, 404),
    parameters=(size_parameter("tree_size", "Of an earlier checkpoint; left out: the newest."),),
    public=True,
)
LOG_CONSISTENCY = Described(
    "Prove that the log only grew",
    "Log",
    {_JSON: CONSISTENCY},
    errors=(400, 404),
    parameters=(
        size_parameter("first", "The size of the earlier state.", required=True),
        size_parameter("second", "The size of the later state; left out: of the newest checkpoint."),
    ),
    public=True,
)
SIGNING_KEYS = Described("The public keys of receipts", "Log", {"application/jwk-set+json": JWKS}, public=True)
LIVE = Described("Whether the process lives", "Health", {_JSON: HEALTH}, public=True)
READY = Described("Whether it can serve", "Health", {_JSON: READINESS}, also={503: {_JSON: READINESS}}, public=True)


def describe(app: FastAPI) -> Json:
    """The document, made once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            openapi_version="3.1.0",
            summary="One OpenAI-compatible endpoint in front of many model sources.",
            routes=app.routes,
        )
        _without_422(document)
        bearer = {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer tg-...`"}
        components = document.setdefault("components", {})
        schemas = components.setdefault("schemas", {})
        error = ErrorBody.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= error.pop("$defs") | {"ErrorBody": error}
        schemes = components.setdefault("securitySchemes", {})
        schemes["HTTPBearer"] = bearer
        app.openapi_schema = document
    return app.openapi_schema


def _without_422(document: Json) -> None:
    """FastAPI believes that it answers 422 to what is not valid; here it is a 400 in OpenAI's form."""
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        document.get("components", {}).get("schemas", {}).pop(name, None)
