"""The body for a source: the client's, with ``model`` and the stream's fields set anew and every other byte as it came.

Values are spliced, never parsed and printed again: an integer beyond 64 bits, ``1.0`` or ``1e-7`` reach the source as
written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from json import JSONDecoder

import orjson

from router_svc.domain.errors import InvalidRequest

GATEWAY_FIELDS = frozenset({"tallygate"})
"""Fields of the body that speak to the gateway and are not sent on."""

_SET_ANEW = frozenset({"model", "stream", "stream_options"})
_SPACE = r"[ \t\n\r]*"
_OPENED = re.compile(_SPACE + r"\{" + _SPACE)
_NAME = re.compile(r'"([^"\\\x00-\x1f]*)"' + _SPACE + ":" + _SPACE)
_COLON = re.compile(_SPACE + ":" + _SPACE)
_NEXT = re.compile(_SPACE + "(?:," + _SPACE + r"|(?=\}))")
# Only the ends of values matter here. float() takes a number of any length, where int() has a limit.
_decoder = JSONDecoder(parse_int=float)


def body_for_source(body: bytes, *, model: str, stream: bool, ask_usage: bool = True) -> bytes:
    """The bytes to send. ``ask_usage``: set ``stream_options.include_usage``; without it, stream_options are left out.

    Raises:
        InvalidRequest: not a JSON object, a field twice, or nested too deeply.
    """
    kept: list[str] = []
    options: object = None
    for name, member, value in _members(body):
        if name == "stream_options":
            options = value
        if name not in _SET_ANEW and name not in GATEWAY_FIELDS:
            kept.append(member)
    fields = [f'"model":{orjson.dumps(model).decode()}', *kept]
    if stream:
        fields.append('"stream":true')
        if ask_usage:
            fields.append(f'"stream_options":{orjson.dumps(_with_usage(options)).decode()}')
    return f"{{{','.join(fields)}}}".encode()


def asks_only_for_usage(options: object) -> bool:
    """The client's stream_options hold nothing that a source could object to but ``include_usage``."""
    return options is None or (isinstance(options, Mapping) and set(options) <= {"include_usage"})


def _with_usage(options: object) -> dict[str, object]:
    if options is not None and not isinstance(options, dict):
        raise InvalidRequest("stream_options must be an object", "stream_options")
    return {**(options or {}), "include_usage": True}


def _members(body: bytes) -> list[tuple[str, str, object]]:
    """The members of the outermost object: name, text from the name's quote to the value's end, value."""
    text = body.decode()
    members: list[tuple[str, str, object]] = []
    names: set[str] = set()
    try:
        at = _matched(_OPENED.match(text))
        while text[at] != "}":
            start = at
            plain = _NAME.match(text, at)
            if plain is not None:
                name, at = plain[1], plain.end()
            else:
                name, at = _decoder.raw_decode(text, at)
                at = _matched(_COLON.match(text, at))
            value, end = _decoder.raw_decode(text, at)
            if name in names:
                raise InvalidRequest(f"the field {name!r} is there twice", name)
            names.add(name)
            members.append((name, text[start:end], value))
            at = _matched(_NEXT.match(text, end))
    except RecursionError as error:
        raise InvalidRequest("the body is nested too deeply") from error
    except (ValueError, IndexError) as error:
        raise InvalidRequest("the body is not a valid JSON object") from error
    return members


def _matched(match: re.Match[str] | None) -> int:
    if match is None:
        raise ValueError("not where it should be")
    return match.end()
