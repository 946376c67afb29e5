"""A stream of chat completion chunks as the one body that it says.

Reads what sources send: the role in the first delta or in all, null fields, keys in some chunks only, tool calls in
parallel with or without an index (Mistral), usage in a chunk without choices, in the last one with choices (llama.cpp,
Groq) or growing in every chunk (Perplexity, xAI), reasoning as `reasoning`, `reasoning_content` or `reasoning_details`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from meshkit.answers.joining import NotFoldable, grown, longer_logprobs, same_or_merged
from meshkit.answers.shape import BODY_OBJECT, CHUNK_OBJECT, GROWING_TEXTS, PADDING, REPEATED_FIELDS, Json
from meshkit.answers.tool_calls import ToolCalls


def fold(chunks: Iterable[Any]) -> Json:
    """The body that the chunks say, the usage chunk among them. A field that never came is absent: see ``storable``.

    Raises:
        NotFoldable: a chunk is an error or not a chunk; or a field could be put together in more than one way.
    """
    body: Json = {"object": BODY_OBJECT, "choices": []}
    choices: dict[int, _Choice] = {}
    for chunk in chunks:
        if not isinstance(chunk, dict) or not isinstance(chunk.get("choices", []), list | None):
            raise NotFoldable("not a chunk of a chat completion")
        if chunk.get("error") is not None:
            raise NotFoldable("the stream ends with an error")
        _take_top(body, chunk)
        for part in chunk.get("choices") or []:
            _choice_of(choices, part).take(part)
    body["choices"] = [choices[index].whole() for index in sorted(choices)]
    return body


def _take_top(body: Json, chunk: Json) -> None:
    for name, value in chunk.items():
        if name in ("choices", PADDING):
            continue
        if name == "object":
            if value != CHUNK_OBJECT:
                raise NotFoldable(f"`object` is {value!r}")
        elif name == "usage":
            if value is not None:
                body["usage"] = value  # the last one: some sources count up in every chunk
        elif name in REPEATED_FIELDS:
            if not body.get(name):  # blank in Azure's first chunk
                body[name] = value
        else:
            body[name] = same_or_merged(name, body.get(name), value)


def _choice_of(choices: dict[int, _Choice], part: Any) -> _Choice:
    if not isinstance(part, dict):
        raise NotFoldable("a choice is not an object")
    index = part.get("index", 0)
    if not isinstance(index, int) or isinstance(index, bool):
        raise NotFoldable(f"a choice has the index {index!r}")
    return choices.setdefault(index, _Choice(index))


class _Choice:
    """One choice as far as it has come."""

    def __init__(self, index: int) -> None:
        self._fields: Json = {"index": index}
        self._message: Json = {}
        self._texts: dict[str, list[str]] = {}
        self._calls = ToolCalls()

    def take(self, part: Json) -> None:
        """Adds what ``part`` says."""
        for name, value in part.items():
            if name == "index":
                continue
            if name == "delta":
                self._take_delta(value)
            elif name == "logprobs":
                self._fields[name] = longer_logprobs(self._fields.get(name), value)
            elif name == "native_finish_reason":
                self._fields[name] = value if value is not None else self._fields.get(name)
            else:
                self._fields[name] = same_or_merged(name, self._fields.get(name), value)

    def whole(self) -> Json:
        """The choice of the body."""
        message = self._message
        for name, pieces in self._texts.items():
            message[name] = "".join(pieces)
        if message.get("tool_calls") is not None:
            message["tool_calls"] = self._calls.whole()
        return {**self._fields, "message": message}

    def _take_delta(self, delta: Any) -> None:
        if not isinstance(delta, dict | None):
            raise NotFoldable("a delta is not an object")
        for name, value in (delta or {}).items():
            if value is None:
                self._message.setdefault(name, None)
            elif name in GROWING_TEXTS and isinstance(value, str):
                if not isinstance(self._message.get(name), str | None):
                    raise NotFoldable(f"`{name}` is text and more than text")
                self._message.setdefault(name, "")
                self._texts.setdefault(name, []).append(value)
            elif name == "tool_calls":
                self._calls.take(value)
                self._message["tool_calls"] = []  # filled when all have come
            else:
                self._message[name] = grown(name, self._message.get(name), value)
