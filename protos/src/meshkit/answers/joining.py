"""How the pieces of one field are joined, field by field.

A field that has no rule is kept when there is one way to keep it. Where there are two, the stream is refused: an answer
that is not stored costs money, one that is put together wrongly costs trust.
"""

from __future__ import annotations

import base64
import binascii
import operator
from collections.abc import Callable
from typing import Any

from meshkit.answers.shape import Json

_REPEATED_LISTS = frozenset({"citations", "search_results", "prompt_filter_results"})


class NotFoldable(ValueError):
    """The stream is broken, or it can be put together in more than one way."""


def grown(name: str, before: Any, value: Any) -> Any:
    """A field of the message after one more delta."""
    if before is None:
        return value
    if name == "role":
        return repeated(name, before, value)
    kind: type = list if name in _GROWING_LISTS else dict
    if name not in _GROWING or not isinstance(before, kind) or not isinstance(value, kind):
        return once(name, before, value)
    return _GROWING[name](before, value)


def _grown_audio(before: Json, piece: Json) -> Json:
    return _joined(before, piece, {"transcript": _longer_text, "data": _joined_base64})


def _joined(before: Json, piece: Json, rules: dict[str, Callable[[str, Any, Any], Any]]) -> Json:
    """An object after one more piece of it; members without a rule say one thing however often they come."""
    joined = dict(before)
    for name, value in piece.items():
        had = joined.get(name)
        if had is None or value is None:
            joined[name] = had if value is None else value
        else:
            joined[name] = rules.get(name, repeated)(name, had, value)
    return joined


def _joined_base64(name: str, before: Any, piece: Any) -> str:
    # Each piece is padded on its own, so that the texts can't be joined.
    try:
        joined = base64.b64decode(before, validate=True) + base64.b64decode(piece, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise NotFoldable(f"`{name}` is not base64") from error
    return base64.b64encode(joined).decode()


def _grown_details(before: list[Any], items: list[Any]) -> list[Any]:
    """OpenRouter's `reasoning_details`: an item of the same index and type goes on with the one before."""
    joined = list(before)
    for item in items:
        if joined and _goes_on(joined[-1], item):
            joined[-1] = _longer_detail(joined[-1], item)
        else:
            joined.append(item)
    return joined


def _goes_on(last: Any, item: Any) -> bool:
    if not isinstance(last, dict) or not isinstance(item, dict) or item.get("index") is None:
        return False
    return (item["index"], item.get("type")) == (last.get("index"), last.get("type"))


def _longer_detail(last: Json, item: Json) -> Json:
    return _joined(last, item, {"text": _longer_text, "summary": _longer_text})


def longer_logprobs(before: Any, value: Any) -> Any:
    """The `logprobs` of a choice: lists of tokens that grow."""
    if before is None or value is None:
        return before if value is None else value
    if not isinstance(before, dict) or not isinstance(value, dict):
        raise NotFoldable("`logprobs` of two forms")
    return _joined(before, value, dict.fromkeys(value, _longer_list))


def _longer_list(name: str, before: Any, value: Any) -> list[Any]:
    if not isinstance(before, list) or not isinstance(value, list):
        raise NotFoldable(f"`{name}` is not a list")
    return before + value


def repeated(name: str, before: Any, value: Any) -> Any:
    """A field that says one thing however often it comes; some sources repeat it as an empty string."""
    if before in (None, "", value):
        return value
    if value in (None, ""):
        return before
    raise NotFoldable(f"`{name}` is both {before!r} and {value!r}")


def once(name: str, before: Any, value: Any) -> Any:
    """An unknown field of a delta: pieces of a text and repetitions of a fact look the same, so it may come once."""
    if before is None:
        return value
    raise NotFoldable(f"`{name}` came in two deltas, and there is no rule for how to join it")


def same_or_merged(name: str, before: Any, value: Any) -> Any:
    """A field beside the deltas, known or not: null until it is known, then the same, or an object that gains
    members."""
    if value is None or before is None:
        return before if value is None else value
    if isinstance(before, dict) and isinstance(value, dict):
        return {**before, **{key: repeated(f"{name}.{key}", before.get(key), value[key]) for key in value}}
    if before == value and (not isinstance(value, list) or name in _REPEATED_LISTS):
        return value
    raise NotFoldable(f"`{name}` is both {before!r} and {value!r}")


def _grown_function(before: Json, piece: Json) -> Json:
    """The legacy `function_call`."""
    return _joined(before, piece, {"arguments": _longer_text})


def _longer_text(name: str, before: Any, value: Any) -> str:
    if not isinstance(before, str) or not isinstance(value, str):
        raise NotFoldable(f"`{name}` is not text")
    return before + value


_GROWING_LISTS = frozenset({"annotations", "images", "citations", "reasoning_details"})
_GROWING: dict[str, Callable[[Any, Any], Any]] = {
    "annotations": operator.add,
    "images": operator.add,
    "citations": operator.add,
    "reasoning_details": _grown_details,
    "function_call": _grown_function,
    "audio": _grown_audio,
}
