"""The one place where an ErrorReason becomes an OpenAI error.

The form is OpenAI's: ``{"error": {"message", "type", "code", "param"}}``. Its SDKs choose their exception by the HTTP
status, and retry 408, 409, 429 and everything from 500 up, unless ``x-should-retry: false`` says that it is in vain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.responses import Response

from meshkit.errors import MeshError
from tallygate.common.v1.errors_pb2 import ErrorReason

_BROKEN = "Something went wrong on our side. Try again; if it keeps failing, report the X-Trace-ID of this response."


@dataclass(frozen=True, slots=True)
class OpenAIError:
    """How one reason looks to a client."""

    status: int
    """The HTTP status; what an SDK chooses its exception by."""
    type: str
    code: str
    text: str
    """Said where the refusing service said nothing, or always if ``own_text``."""
    own_text: bool = False
    """What the service said is for the log: it may name addresses or be a bug's."""
    advice: str = ""
    """Added to what the service said: what to do about it."""
    retry: bool | None = None
    """False: sent again it would fail again, and clients that retry by status are told so. A refusal may say so of
    itself (``metadata["retry"]`` "false")."""
    retry_after_s: int | None = None
    """When to try again, unless the refusal knows better (``metadata["retry_after_s"]``)."""
    param: str | None = None
    """The field at fault, unless the refusal names one (``metadata["param"]``)."""
    codes_by_period: Mapping[str, str] = field(default_factory=dict)
    """Other codes, by ``metadata["period"]``."""


_R = ErrorReason
_INVALID, _AUTH, _BILLING, _RATE = "invalid_request_error", "authentication_error", "billing_error", "rate_limit_error"
_SERVER, _UPSTREAM = "server_error", "upstream_error"

TABLE: Mapping[ErrorReason.ValueType, OpenAIError] = {
    _R.ERROR_REASON_UNSPECIFIED: OpenAIError(500, _SERVER, "internal_error", _BROKEN, own_text=True),
    _R.ERROR_REASON_INTERNAL: OpenAIError(500, _SERVER, "internal_error", _BROKEN, own_text=True),
    _R.ERROR_REASON_UNAVAILABLE: OpenAIError(
        503,
        _SERVER,
        "unavailable",
        "The service can't take this request now. Try again in a moment.",
        own_text=True,
        retry_after_s=1,
    ),
    _R.ERROR_REASON_DEADLINE_EXCEEDED: OpenAIError(
        504,
        _SERVER,
        "timeout",
        "The answer took too long. Ask for a shorter one, or for a stream.",
        own_text=True,
        retry=False,
    ),
    _R.ERROR_REASON_DEADLINE_REQUIRED: OpenAIError(500, _SERVER, "internal_error", _BROKEN, own_text=True),
    _R.ERROR_REASON_INVALID_REQUEST: OpenAIError(
        400, _INVALID, "invalid_request", "The request is not what this API takes."
    ),
    _R.ERROR_REASON_REQUEST_TOO_LARGE: OpenAIError(
        413, _INVALID, "request_too_large", "The request body is too large. Send a smaller one."
    ),
    _R.ERROR_REASON_NOT_FOUND: OpenAIError(404, _INVALID, "not_found", "There is no such thing."),
    _R.ERROR_REASON_METHOD_NOT_ALLOWED: OpenAIError(
        405, _INVALID, "method_not_allowed", "This path does not take that HTTP method."
    ),
    _R.ERROR_REASON_INVALID_API_KEY: OpenAIError(
        401,
        _AUTH,
        "invalid_api_key",
        "The API key is not valid.",
        advice="Send a key that you were given, as `Authorization: Bearer tg-...`.",
    ),
    _R.ERROR_REASON_API_KEY_REVOKED: OpenAIError(
        401, _AUTH, "invalid_api_key", "The API key was revoked or has expired.", advice="Use another key."
    ),
    _R.ERROR_REASON_MODEL_NOT_FOUND: OpenAIError(
        404, _INVALID, "model_not_found", "There is no such model. GET /v1/models lists them.", param="model"
    ),
    _R.ERROR_REASON_MODEL_NOT_ALLOWED: OpenAIError(
        403,
        "permission_error",
        "model_not_allowed",
        "This API key may not use this model.",
        advice="Use a model on the key's list, or a key that allows this one.",
        param="model",
    ),
    _R.ERROR_REASON_PERMISSION_DENIED: OpenAIError(
        403, "permission_error", "permission_denied", "This API key may not do that.", advice="Use a key that may."
    ),
    _R.ERROR_REASON_PRICE_UNKNOWN: OpenAIError(
        400,
        _INVALID,
        "price_unknown",
        "The model has no known price, so what it would cost can't be held.",
        advice="Use another model; the operator can set a price for this one.",
        param="model",
    ),
    _R.ERROR_REASON_NO_SOURCE: OpenAIError(
        503,
        _SERVER,
        "no_source",
        "No source can take this request.",
        advice="Use another model, or ask for fewer capabilities of it.",
        retry=False,
    ),
    _R.ERROR_REASON_INSUFFICIENT_BALANCE: OpenAIError(
        402,
        _BILLING,
        "insufficient_balance",
        "The balance does not cover what this request may cost.",
        advice="Add credit, or set a lower max_tokens.",
        retry=False,
    ),
    _R.ERROR_REASON_BUDGET_EXCEEDED: OpenAIError(
        429,
        _BILLING,
        "monthly_cap_exceeded",
        "This request could pass a cap.",
        codes_by_period={"day": "daily_cap_exceeded"},
        advice="Raise the cap, wait until it resets, or set a lower max_tokens.",
        retry=False,
    ),
    _R.ERROR_REASON_RATE_LIMIT_EXCEEDED: OpenAIError(
        429, _RATE, "rate_limit_exceeded", "Too many requests. Slow down and try again."
    ),
    _R.ERROR_REASON_IDEMPOTENCY_CONFLICT: OpenAIError(
        409,
        _INVALID,
        "idempotency_conflict",
        "The same idempotency key came with another body. Use a new key for a new request.",
        retry=False,
    ),
    _R.ERROR_REASON_HOLD_CLOSED: OpenAIError(500, _SERVER, "internal_error", _BROKEN, own_text=True),
    _R.ERROR_REASON_UPSTREAM_ERROR: OpenAIError(
        502, _UPSTREAM, "upstream_error", "Every source of this model failed. Try again, or use another model."
    ),
    _R.ERROR_REASON_UPSTREAM_REJECTED: OpenAIError(
        400, _INVALID, "upstream_rejected", "The source of this model refused the request."
    ),
    _R.ERROR_REASON_UPSTREAM_RATE_LIMITED: OpenAIError(
        429,
        _RATE,
        "upstream_rate_limited",
        "Every source of this model is being called too often. Try again in a moment, or use another model.",
        retry_after_s=1,
    ),
    # Not 401 or 403: the caller's key is good, and SDKs would say that it is not.
    _R.ERROR_REASON_UPSTREAM_KEY_REJECTED: OpenAIError(
        424,
        _UPSTREAM,
        "provider_key_rejected",
        "A source refused the provider key that your organisation brought for it.",
        advice="Check the key with that source, then rotate or revoke it under /v1/provider-keys.",
        retry=False,
    ),
    _R.ERROR_REASON_CACHE_MISS: OpenAIError(
        404,
        _INVALID,
        "cache_miss",
        "No verified answer to this request is stored, and only a stored one was asked for.",
        advice="Leave out `X-Tallygate-Cache: only` to have it answered afresh.",
    ),
    _R.ERROR_REASON_IDEMPOTENCY_KEY_IN_USE: OpenAIError(
        409,
        _INVALID,
        "idempotency_key_in_use",
        "A request with this Idempotency-Key is still running. Send it again in a moment to get its answer.",
        own_text=True,
        retry_after_s=1,
    ),
    _R.ERROR_REASON_ANSWER_GONE: OpenAIError(
        409,
        _INVALID,
        "idempotent_answer_gone",
        "A request with this Idempotency-Key was answered and charged, and its answer is no longer kept.",
        advice="It is not charged again. Use a new Idempotency-Key to ask anew.",
        retry=False,
    ),
    _R.ERROR_REASON_PAYMENTS_NOT_CONFIGURED: OpenAIError(
        409, _BILLING, "payments_not_configured", "This installation takes no payments.", retry=False
    ),
}
"""Complete by test: every ErrorReason has its line."""


def refusal(reason: ErrorReason.ValueType, message: str = "", **metadata: str) -> MeshError:
    """A refusal by the edge itself, in the form in which the services refuse."""
    return MeshError(reason, message, metadata=metadata)


def invalid(message: str, param: str | None = None) -> MeshError:
    """INVALID_REQUEST, with the field at fault."""
    return refusal(ErrorReason.ERROR_REASON_INVALID_REQUEST, message, **({"param": param} if param else {}))


def shape_of(error: MeshError) -> OpenAIError:
    """How ``error`` looks to a client; a reason of a newer contract looks internal."""
    return TABLE.get(error.reason) or TABLE[ErrorReason.ERROR_REASON_INTERNAL]


def code_of(error: MeshError) -> str:
    """The OpenAI error code of ``error``."""
    shape = shape_of(error)
    return shape.codes_by_period.get(error.metadata.get("period", ""), shape.code)


def error_body(error: MeshError) -> dict[str, Any]:
    """``{"error": {...}}`` for a JSON answer and for an event of a stream alike."""
    shape = shape_of(error)
    message = shape.text if shape.own_text or not error.message else error.message
    if shape.advice and shape.advice not in message:
        message = (
            f"{message.rstrip()} {shape.advice}" if message.rstrip().endswith(".") else f"{message}. {shape.advice}"
        )
    param = error.metadata.get("param") or shape.param
    return {"error": {"message": message, "type": shape.type, "code": code_of(error), "param": param}}


def error_response(error: MeshError) -> Response:
    """The whole HTTP answer to a refused request."""
    shape = shape_of(error)
    headers = {}
    retry_after_s = error.metadata.get("retry_after_s") or shape.retry_after_s
    if retry_after_s is not None:
        headers["retry-after"] = str(retry_after_s)
    if shape.retry is False or error.metadata.get("retry") == "false":
        headers["x-should-retry"] = "false"
    if shape.status == 401:
        headers["www-authenticate"] = "Bearer"
    if receipt_id := error.metadata.get("receipt_id"):
        headers["x-receipt-id"] = receipt_id
    return Response(orjson.dumps(error_body(error)), shape.status, headers, "application/json")
