"""Whether a request and an answer are those that a receipt is for, by the salted digests in it.

The canonical form is rfc8785's here, whatever wrote it when the digest was taken. How a stream is put together is
shared (meshkit.answers.fold): it is the definition of what the digest is of.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import rfc8785

from meshkit.answers.fold import fold
from meshkit.answers.statement import COVERED, covered
from meshkit.digests import is_of

_DONE = "[DONE]"
_LINE_END = re.compile(r"\r\n|\n|\r")  # and nothing else: JSON may have other line separators inside a string
_KNOWN_FIELDS = frozenset({"event", "id", "retry"})

Json = Callable[[str], Any]
"""Reads JSON, and refuses a name that stands twice in one object."""


def check_request(digest: str, body: bytes) -> str:
    """What was found.

    Raises:
        ValueError: ``body`` is not the request's, or the receipt does not say.
    """
    _require(digest, "request")
    if not is_of(digest, body):
        raise ValueError(f"these {len(body)} bytes are not the request's body as it was sent")
    return f"these {len(body)} bytes are the request's body as it was sent"


def check_answer(digest: str, file: bytes, read_json: Json) -> str:
    """What was found. ``file``: the body, or the stream as it came, ``data:`` lines and all.

    Raises:
        ValueError: it is not the answer that the receipt is for, or the receipt does not say.
    """
    _require(digest, "answer")
    text = file.decode()
    if text.lstrip().startswith("{"):
        body, form = covered(read_json(text)), "this body"
    else:
        events = [read_json(event) for event in _events(text)]
        # A stream that broke off ends with an error, which is no part of the answer.
        chunks = [event for event in events if not (isinstance(event, dict) and event.get("error"))]
        body, form = covered(fold(_without_padding(chunks))), f"this stream of {len(chunks)} events"
    if not is_of(digest, rfc8785.dumps(body)):
        raise ValueError(f"{form} does not say what the receipt's answer says: its {' or '.join(COVERED)} differ")
    return (
        f"the {' and '.join(name for name in COVERED if name in body)} of {form} are those of the receipt's answer "
        "(not covered: id, created, usage and other fields beside them)"
    )


def _require(digest: str, what: str) -> None:
    if not digest:
        raise ValueError(f"the receipt has no digest of its {what}, so there is nothing to compare with")


def _without_padding(chunks: list[Any]) -> Iterator[Any]:
    for chunk in chunks:
        yield {name: value for name, value in chunk.items() if name in COVERED} if isinstance(chunk, dict) else chunk


def _events(text: str) -> Iterator[str]:
    """The data of each event up to ``[DONE]``. https://html.spec.whatwg.org/multipage/server-sent-events.html"""
    lines: list[str] = []
    for line in [*_LINE_END.split(text), ""]:
        name, _, value = line.partition(":")
        if name == "data":
            lines.append(value.removeprefix(" "))
        elif not line:
            event, lines = "\n".join(lines), []
            if event == _DONE:
                return
            if event:
                yield event
        elif name and name not in _KNOWN_FIELDS:  # without a name it is a comment
            raise ValueError(f"neither a JSON body nor an event stream: {json.dumps(line[:40])}")
