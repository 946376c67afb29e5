"""JSON schemas of what the hand-written routes take and give. Objects stay open: a source may answer with fields that
nobody here knows, and a parameter invented tomorrow is passed on.
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

_TEXT: Json = {"type": "string"}
_TEXT_OR_NULL: Json = {"type": ["string", "null"]}
_INTEGER: Json = {"type": "integer"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_USD: Json = {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]+)?$", "description": "US dollars, a decimal string."}
_TIME: Json = {"type": "string", "format": "date-time"}


def _object(required: dict[str, Json], **optional: Json) -> Json:
    return {"type": "object", "required": list(required), "properties": required | optional}


def _constant(value: str) -> Json:
    return {"type": "string", "const": value}


def _list_of(items: Json) -> Json:
    return {"type": "array", "items": items}


def size_parameter(name: str, description: str, *, required: bool = False) -> Json:
    """A parameter of the query that is the size of a checkpoint."""
    schema = {"type": "integer", "minimum": 0, "maximum": 2**53 - 1}
    return {"name": name, "in": "query", "required": required, "description": description, "schema": schema}


CHAT_REQUEST: Json = _object(
    {
        "model": {"type": "string", "minLength": 1, "description": "A model's id or an alias: GET /v1/models."},
        "messages": {
            "type": "array",
            "minItems": 1,
            "items": _object({"role": _TEXT}, content={"type": ["string", "array", "null"]}),
        },
    },
    stream={"type": ["boolean", "null"]},
    stream_options={"type": ["object", "null"], "properties": {"include_usage": {"type": ["boolean", "null"]}}},
    max_tokens={"type": ["integer", "null"], "minimum": 1},
    max_completion_tokens={"type": ["integer", "null"], "minimum": 1},
    temperature={"type": ["number", "null"], "description": "0 makes the answer one that is replayed."},
    user={"type": ["string", "null"]},
)
CHAT_REQUEST["description"] = (
    "The body of OpenAI's chat completions, https://platform.openai.com/docs/api-reference/chat/create. "
    "Fields that are not listed here are passed on to the source."
)
CHAT_ANSWER: Json = _object(
    {"id": _TEXT, "object": _constant("chat.completion"), "choices": {"type": "array"}, "model": _TEXT},
    created=_INTEGER,
    usage={"type": ["object", "null"]},
)
SSE: Json = {"description": "Server-sent events; the data of each is a chunk of the answer, of the last `[DONE]`."}


def _header(name: str, description: str) -> Json:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": _TEXT}


CACHE_CONTROLS: tuple[Json, ...] = (
    _header(
        "X-Tallygate-Cache",
        "on, off, refresh or only; and beside it, with commas, sampled, one of exact, canonical and semantic, "
        "ttl=SECONDS and max-error=SHARE. A tier or share beyond the key's cache policy is a 403.",
    ),
    _header("Cache-Control", "no-store, no-cache, only-if-cached, max-age=SECONDS (RFC 9111)."),
    _header("Idempotency-Key", "The same key and body: the same answer, charged once."),
)


def _shown(description: str) -> Json:
    return {"description": description, "schema": _TEXT}


CHAT_HEADERS: Json = {
    "X-Trace-ID": _shown("The trace of the request."),
    "X-Served-Mode": _shown("fresh, exact, canonical or semantic."),
    "X-Receipt-Id": _shown("The receipt; not on a stream, where it stands in the last chunk."),
    "X-Cost-USD": _shown("What was charged, a decimal string."),
    "Cache-Status": _shown("RFC 9211. Of a replay its `key` names the answer, also for POST /v1/cache/purge."),
    "Age": _shown("Of a replay: seconds since the answer was stored (RFC 9111)."),
}

MODEL: Json = _object(
    {"id": _TEXT, "object": _constant("model"), "created": _INTEGER, "owned_by": _TEXT},
    name=_TEXT,
    context_length=_COUNT,
    max_output_tokens=_COUNT,
    capabilities=_list_of(_TEXT),
    alias_of=_TEXT,
)
MODEL_LIST: Json = _object({"object": _constant("list"), "data": _list_of(MODEL)})
RECEIPT: Json = _object(
    {
        "object": _constant("receipt"),
        "receipt_id": _TEXT,
        "request_id": _TEXT,
        "created_at": _TIME,
        "served_mode": _TEXT,
        "model": _TEXT,
        "usage": {"type": "object"},
        "price": {"type": "object"},
        "held_usd": _USD,
        "charged_usd": _USD,
        "saved_usd": _USD,
        "absorbed_usd": _USD,
        "corrected_usd": _USD,
        "attempts": {"type": "array"},
        "jws": {"type": "string", "description": "The receipt as signed, RFC 7515."},
    },
    origin_receipt_id=_TEXT_OR_NULL,
)
CONSISTENCY: Json = _object(
    {
        "object": _constant("consistency_proof"),
        "first_size": _COUNT,
        "second_size": _COUNT,
        "hashes": _list_of(_TEXT),
    }
)
JWKS: Json = _object({"keys": _list_of(_object({"kty": _TEXT, "crv": _TEXT, "kid": _TEXT, "x": _TEXT}))})
PROOF: Json = _object(
    {
        "object": _constant("receipt_proof"),
        "receipt_id": _TEXT,
        "jws": _TEXT,
        "inclusion": _object({"leaf_index": _COUNT, "tree_size": _COUNT, "hashes": _list_of(_TEXT)}),
        "checkpoint": _TEXT,
        "jwks": JWKS,
    },
    consistency=CONSISTENCY,
)
HEALTH: Json = _object({"status": _TEXT, "service": _TEXT, "version": _TEXT})
READINESS: Json = _object({"status": _TEXT, "version": _TEXT, "dependencies": {"type": "object"}})
