"""A request split at the text of its last user message: what the upper tiers may read differently, and all the rest,
which stays exact.

The rest is in two forms. Its hash, the bucket, is what candidates are looked for under; its bytes, before and after the
text, are what a stored request is compared with, so that a broken index can point anywhere and replay nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import orjson

from cache_svc.domain import canonical
from cache_svc.domain.request import CacheRequest
from cache_svc.domain.wording.verbatim import MAX_CHARS


@dataclass(frozen=True, slots=True)
class Question:
    """``text``: of the last user message. ``before`` and ``after``: the canonical request around the JSON string that
    it is. ``bucket``: SHA-256 of the two, 32 bytes. ``epoch_names``: of the request.
    """

    text: str
    before: bytes
    after: bytes
    bucket: bytes
    epoch_names: tuple[str, ...] = ()

    def text_in(self, canonical_request: bytes) -> str | None:
        """The text in another canonical request, if that differs from this one in nothing else; otherwise None."""
        end = len(canonical_request) - len(self.after)
        if len(self.before) > end:
            return None
        if not canonical_request.startswith(self.before) or not canonical_request.endswith(self.after):
            return None
        try:
            text = orjson.loads(memoryview(canonical_request)[len(self.before) : end])
        except orjson.JSONDecodeError:
            return None
        return text if isinstance(text, str) else None


def read_question(request: CacheRequest) -> Question | None:
    """The question of ``request``; None where its last message is not a user's with a text, or has a very long one.

    Of a message in parts the last text part is the question; what stands before and after it is hashed with the rest.
    """
    messages = request.body.get("messages")
    if not isinstance(messages, list) or not messages or not isinstance(messages[-1], dict):
        return None
    message: dict[str, Any] = messages[-1]
    if message.get("role") != "user":
        return None
    # Nobody can write the digest of a body into that body, so the mark stands in the split request once.
    mark = request.address.hex()
    split = _split(message.get("content"), mark)
    if split is None:
        return None
    text, content = split
    if not text or len(text) > MAX_CHARS:
        return None
    marked = canonical.dump({**request.body, "messages": [*messages[:-1], {**message, "content": content}]})
    before, found, after = marked.partition(b'"' + mark.encode() + b'"')
    if not found or mark.encode() in after:
        return None
    before, after = b'{"body":' + before, after + request.facts_tail
    return Question(text, before, after, _bucket(before, after), request.epoch_names)


def _split(content: Any, mark: str) -> tuple[str, Any] | None:
    """The text of a message's content, and the content with ``mark`` in its place."""
    if isinstance(content, str):
        return content, mark
    if not isinstance(content, list):
        return None
    for index in range(len(content) - 1, -1, -1):
        part = content[index]
        if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
            return part["text"], [*content[:index], {**part, "text": mark}, *content[index + 1 :]]
    return None


def _bucket(before: bytes, after: bytes) -> bytes:
    # The length keeps apart two requests that are cut at different places.
    return hashlib.sha256(b"%d:" % len(before) + before + after).digest()
