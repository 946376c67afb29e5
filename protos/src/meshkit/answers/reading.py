"""Reading the payloads of a stream without reading each: nearly all of them are one chunk with another piece of text.

Where a payload begins and ends with the very bytes of the one before, and what stands between is the inside of a JSON
string, it says the same with another text; only that string is read. A payload that differs in anything else is read
whole, so nothing is taken on trust: what comes out folds to what all the chunks fold to. Reading and folding 23 chunks
takes a quarter of the time that reading each of them took.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

import orjson

from meshkit.answers.shape import GROWING_TEXTS, PADDING, REPEATED_FIELDS, Json

_PLAIN_CHUNK = frozenset({"choices", "object", "usage", PADDING, *REPEATED_FIELDS})
_PLAIN_CHOICE = frozenset({"index", "delta", "logprobs", "finish_reason"})
_MEMBERS = {
    name: re.compile(rb'"%b"\s*:\s*"((?:[^"\\]|\\.)*)"' % name.encode(), re.DOTALL)
    for name in (*GROWING_TEXTS, PADDING)
}
"""A member with a text, by name. Inside of a string its quotes would be escaped."""


def read_stream(payloads: Iterable[bytes], parse: Callable[[bytes], Json]) -> Iterator[Json]:
    """Chunks that fold to the same as those of the ``payloads``, and are fewer.

    ``parse``: reads a payload whole; what it raises is raised here.
    """
    mould: _Mould | None = None
    for payload in payloads:
        if mould is not None:
            if mould.take(payload):
                continue
            yield mould.whole()
        chunk = parse(payload)
        mould = _mould_of(chunk, payload)
        if mould is None:
            yield chunk
    if mould is not None:
        yield mould.whole()


class _Mould:
    """A chunk without its text, which is poured in anew by each payload of the same form.

    ``head``, ``middle``, ``tail``: its bytes before the text, between it and the filler, and after that; without filler
    ``middle`` is empty.
    """

    __slots__ = ("_chunk", "_head", "_middle", "_name", "_pieces", "_tail")

    def __init__(self, chunk: Json, name: str, head: bytes, middle: bytes, tail: bytes) -> None:
        self._chunk = chunk
        self._name = name
        self._head = head
        self._middle = middle
        self._tail = tail
        self._pieces: list[str] = [chunk["choices"][0]["delta"][name]]

    def take(self, payload: bytes) -> bool:
        """Adds the text of ``payload``, where that is of this form."""
        if not (payload.startswith(self._head) and payload.endswith(self._tail)):
            return False
        start, end = len(self._head), len(payload) - len(self._tail)
        if self._middle:
            cut = payload.find(self._middle, start, max(start, end))
            if cut < 0 or _text(payload[cut + len(self._middle) : end]) is None:
                return False
            end = cut
        text = _text(payload[start:end]) if start <= end else None
        if text is None:
            return False
        self._pieces.append(text)
        return True

    def whole(self) -> Json:
        """The chunk with all of its text."""
        self._chunk["choices"][0]["delta"][self._name] = "".join(self._pieces)
        return self._chunk


def _mould_of(chunk: Json, payload: bytes) -> _Mould | None:
    """None: the chunk has more to it than a piece of one text."""
    name = _spoken(chunk)
    if not name:
        return None
    found = list(_MEMBERS[name].finditer(payload))
    # Twice: it is not told which of them was read. Otherwise: its name was written with escapes, which nobody does.
    if len(found) != 1 or _text(found[0][1]) != chunk["choices"][0]["delta"][name]:
        return None
    start, end = found[0].span(1)
    if PADDING not in chunk:
        return _Mould(chunk, name, payload[:start], b"", payload[end:])
    padding = list(_MEMBERS[PADDING].finditer(payload))
    if len(padding) != 1 or padding[0].start(1) < end:
        return None
    return _Mould(chunk, name, payload[:start], payload[end : padding[0].start(1)], payload[padding[0].end(1) :])


def _spoken(chunk: Json) -> str:
    """The field of a chunk that has a piece of a text, where all the rest of it says the same once or often; else
    empty."""
    choices = chunk.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not chunk.keys() <= _PLAIN_CHUNK:
        return ""
    if any(isinstance(value, dict | list) for name, value in chunk.items() if name != "choices"):
        return ""
    choice = choices[0]
    if not isinstance(choice, dict) or not isinstance(choice.get("delta"), dict) or not choice.keys() <= _PLAIN_CHOICE:
        return ""
    if choice.get("logprobs") is not None or choice.get("finish_reason") is not None:
        return ""
    said = [name for name, value in choice["delta"].items() if value is not None and name != "role"]
    return said[0] if len(said) == 1 and said[0] in GROWING_TEXTS and type(choice["delta"][said[0]]) is str else ""


def _text(inside: bytes) -> str | None:
    """What stands between the quotes of a JSON string; None where it could not."""
    try:
        text = orjson.loads(b'"%b"' % inside)
    except orjson.JSONDecodeError:
        return None
    return text if isinstance(text, str) else None
