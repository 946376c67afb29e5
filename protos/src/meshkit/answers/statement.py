"""The statement of an answer: what of it a receipt's digest is taken of, as one byte string.

An answer that came as a stream, its replay as a body and its replay as a stream have one statement, so whoever has any
of them can check it against the receipt of each. Hence it leaves out what differs between them without changing what
was said: ``id`` and ``created``, which each replay has anew; ``object``, which tells bodies from streams; ``usage``,
which only some clients ask for and the receipt itself states; and whatever sources put beside the choices for
themselves, some of it in the usage chunk only. What is left is ``choices`` whole, ``model``, and what searching models
put beside the choices. Its bytes are RFC 8785 canonical JSON, so that white space and the order of fields do not count.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson
import rfc8785

from meshkit.answers.fold import fold
from meshkit.answers.joining import NotFoldable
from meshkit.answers.reading import read_stream
from meshkit.answers.shape import Json

COVERED = ("choices", "citations", "model", "search_results")
"""The fields of a body that its statement has, where they are there."""

_MAX_INT = 2**53 - 1


class NoStatement(ValueError):
    """The bytes are no answer, or one that can be read in more than one way."""


def of_body(body: bytes) -> bytes:
    """The statement of an answer that came as one body.

    Raises:
        NoStatement: not a JSON object with choices, or an integer beyond 2^53-1.
    """
    return canonical(covered(_object(body)))


def of_stream(payloads: Iterable[bytes]) -> bytes:
    """The statement of an answer that came as a stream, also of one that broke off. The usage chunk adds nothing to it.

    Raises:
        NoStatement: a payload is no chunk, or a field could be put together in more than one way.
    """
    try:
        return canonical(covered(fold(map(_only_covered, read_stream(payloads, _object)))))
    except NotFoldable as error:
        raise NoStatement(str(error)) from error


def covered(body: Json) -> Json:
    """The fields of a body that the statement has.

    Raises:
        NoStatement: it has no choices.
    """
    if not isinstance(body.get("choices"), list):
        raise NoStatement("not an answer: it has no choices")
    return _only_covered(body)


def canonical(value: Any) -> bytes:
    """RFC 8785 canonical JSON.

    orjson writes the same at a tenth of the cost where there is no fraction and every name is ASCII: all answers but
    those with logprobs.

    Raises:
        NoStatement: there is none, for an integer beyond 2^53-1.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS) if _is_plain(value) else rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, RecursionError, orjson.JSONEncodeError) as error:
        raise NoStatement(f"has no canonical form: {error}") from error


def _object(text: bytes) -> Json:
    try:
        parsed = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise NoStatement(f"not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise NoStatement("not a JSON object")
    return parsed


def _only_covered(body: Json) -> Json:
    return {name: body[name] for name in COVERED if body.get(name) is not None}


def _is_plain(value: Any) -> bool:
    """Nothing in ``value`` is written differently by orjson and RFC 8785."""
    if isinstance(value, str) or value is None or isinstance(value, bool):
        return True
    if isinstance(value, int):
        return -_MAX_INT <= value <= _MAX_INT
    if isinstance(value, dict):
        return all(name.isascii() and _is_plain(item) for name, item in value.items())
    return isinstance(value, list) and all(map(_is_plain, value))
