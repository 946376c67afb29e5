"""What tells a replay from a fresh answer, from outside: headers, or a body that a fresh answer would not have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_HIT_HEADERS = (
    "x-portkey-cache-status",  # HIT, SEMANTIC HIT; https://portkey.ai/docs/api-reference/response-schema
    "x-cache",  # Fastly, CloudFront and others
    "x-cache-status",  # nginx's custom, Kong
    "x-litellm-cache-hit",
    "cf-aig-cache-status",  # Cloudflare's AI gateway
    "helicone-cache",
    "x-openrouter-cache-status",
)
"""Headers that say "hit" in one way or another."""
_PRESENT_HEADERS = ("x-litellm-cache-key", "age")
"""Headers that stand on replays only. For `Age`: RFC 9111, section 5.1."""
_REPLAY_MODES = frozenset({"exact", "canonical", "semantic"})
CREATED_APART_S = 2
"""An answer that is by so many seconds older than its request was not made for it."""
_TELLING_CHARS = 80
_HIT_WORD = re.compile(r"\b(?:hit|true)\b", re.IGNORECASE)
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"')


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of an endpoint. ``headers``: with names in small letters. ``sent_at_s``: when its request was sent."""

    headers: Mapping[str, str]
    id: str
    created_s: int
    content: str
    sent_at_s: float


def replay_signs(old: Reply | None, new: Reply, *, content_differs: bool) -> Iterator[str]:
    """What says that ``new`` is a replay, the most certain first; where it may be one of ``old``, also by its body.

    ``content_differs``: a fresh answer to the new request would not be, word for word, the old one. Where a cache says
    that the answer is fresh, only an id that was given before says otherwise: sources may well repeat themselves.
    """
    yield from _header_signs(new.headers)
    if old is None:
        return
    if new.id and new.id == old.id:
        yield "same id"
    if _says_fresh(new.headers):
        return
    same_content = bool(new.content) and new.content == old.content
    if same_content and 0 < new.created_s == old.created_s <= new.sent_at_s - CREATED_APART_S:
        yield "same created and content"
    if same_content and content_differs and len(new.content) >= _TELLING_CHARS:
        yield "same content"


def _header_signs(headers: Mapping[str, str]) -> Iterator[str]:
    if headers.get("x-served-mode", "").lower() in _REPLAY_MODES:
        yield "X-Served-Mode"
    if any(_is_hit(member) for member in _QUOTED.sub('""', headers.get("cache-status", "")).split(",")):
        yield "Cache-Status"
    for name in _HIT_HEADERS:
        if _HIT_WORD.search(headers.get(name, "")):
            yield name
    for name in _PRESENT_HEADERS:
        if headers.get(name):
            yield name


def _says_fresh(headers: Mapping[str, str]) -> bool:
    served, status = headers.get("x-served-mode", ""), headers.get("cache-status", "")
    return (
        served.lower() == "fresh" or "fwd=" in status or any("miss" in headers.get(n, "").lower() for n in _HIT_HEADERS)
    )


def _is_hit(member: str) -> bool:
    """Whether a cache says in its member of Cache-Status that it answered (RFC 9211, section 2.1)."""
    _, *parameters = (part.strip().lower() for part in member.split(";"))
    return "hit" in parameters or "hit=?1" in parameters
