"""What a source's answer other than 200 means."""

from __future__ import annotations

import re
from typing import Any

import orjson

from router_svc.domain.failure import FailureKind, SourceFailure

_REJECTED = frozenset({400, 413, 422})
_UNAUTHORIZED = frozenset({401, 402, 403})
_WHY_REFUSED = {402: "its account there can't pay", 403: "it may not be used for this there"}
_MOST_MESSAGE = 2_000
_CREDENTIALS = re.compile(r"\b(?:sk|gsk|xai|org|proj)-[A-Za-z0-9_*.-]{6,}")
_MOST_RETRY_AFTER_S = 3_600
_SECONDS = re.compile(r"[0-9]{1,9}")  # the header's other form, a date, is not used by any source that we know


def refusal_of(status: int, body: bytes, secret: str, *, retry_after: str = "", own_key: bool = False) -> SourceFailure:
    """The failure for an HTTP status and the beginning of the body. ``retry_after``: the header of that name.
    ``own_key``: the secret is the organisation's, not the operator's.

    Only a rejection of the request itself passes the source's words on; they never hold the key.
    """
    if status == 429:
        seconds = min(int(retry_after), _MOST_RETRY_AFTER_S) if _SECONDS.fullmatch(retry_after) else 0
        return SourceFailure(FailureKind.RATE_LIMITED, "rate limited", http_status=status, retry_after_s=seconds)
    # Google answers a wrong key with 400 and names it by this reason.
    if status in _UNAUTHORIZED or (status == 400 and b"API_KEY_INVALID" in body):
        if own_key:
            why = _WHY_REFUSED.get(status, "it is not valid there")
            return SourceFailure(FailureKind.KEY_REJECTED, f"{why} (HTTP {status})", http_status=status)
        return SourceFailure(FailureKind.UNAUTHORIZED, "the operator's key was refused", http_status=status)
    if status not in _REJECTED:
        return SourceFailure(FailureKind.STATUS, f"HTTP {status}", http_status=status)
    message, param, code = _words(body)
    message = message or f"the source rejected the request with HTTP {status}"
    return SourceFailure(
        FailureKind.REJECTED,
        redacted(message, secret)[:_MOST_MESSAGE],
        http_status=status,
        param=param[:200],
        code=code[:200],
    )


def redacted(text: str, secret: str) -> str:
    """``text`` without the operator's key, whole or as sources abridge it, and without the operator's account there."""
    if secret:
        text = text.replace(secret, "[key]")
    return _CREDENTIALS.sub("[key]", text)


def _words(body: bytes) -> tuple[str, str, str]:
    """Message, param and code in the shapes seen: ``{"error": {...}}``, ``{"error": "..."}``, ``[{"error": ...}]``
    (Google), ``{"message": {...}}`` (Mistral), ``{"detail": ...}`` (FastAPI).
    """
    try:
        parsed: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return "", "", ""
    if isinstance(parsed, list) and parsed:
        parsed = parsed[0]
    if not isinstance(parsed, dict):
        return "", "", ""
    error = parsed.get("error")
    facts = error if isinstance(error, dict) else parsed
    words = error if isinstance(error, str) else facts.get("message") or facts.get("detail") or ""
    if not isinstance(words, str):
        words = orjson.dumps(words).decode()
    return words, str(facts.get("param") or ""), str(facts.get("code") or "")
