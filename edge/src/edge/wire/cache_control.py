"""What a request asks of the cache, and what the answer says of it.

``X-Tallygate-Cache`` takes one of ``on``, ``off``, ``refresh`` and ``only``, and beside it ``sampled``, as in
``X-Tallygate-Cache: refresh, sampled``. A key whose cache is off by default replays and stores only for requests that
have this header.
``Cache-Control`` is read as RFC 9111 section 5.2.1 has it; directives without a meaning here are passed over.
``Cache-Status`` is RFC 9211.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from starlette.datastructures import Headers

from edge.errors import invalid

CACHE_HEADER = "X-Tallygate-Cache"
_MAX_AGE_LIMIT_S = 2**31  # RFC 9111, 1.2.2: a greater number of seconds counts as this one


class Mode(Enum):
    """What may be read and written."""

    DEFAULT = "default"
    OFF = "off"
    REFRESH = "refresh"
    ONLY = "only"


class Tier(Enum):
    """Which answers may be replayed, in the order in which they are looked for."""

    EXACT = "exact"
    CANONICAL = "canonical"
    SEMANTIC = "semantic"


@dataclass(frozen=True, slots=True)
class Controls:
    """What a request asks of the cache."""

    mode: Mode = Mode.DEFAULT
    max_age_s: int | None = None
    allow_sampled: bool = False
    """A request with a temperature above 0, or with none, may be replayed and stored too."""
    up_to: Tier = Tier.EXACT
    """The last tier that may answer."""
    max_error_ppm: int | None = None
    """Of the semantic tier: the share of its replays that may be wrong, in parts per million."""
    ttl_s: int = 0
    """The longest that a fresh answer may be kept; 0: as long as the service keeps any."""
    share_in_org: bool = False
    """The organisation lets its projects replay each other's answers."""
    record: bool = False
    """The organisation lets its requests be recorded."""


_MODE_OF_DIRECTIVE = {"no-store": Mode.OFF, "no-cache": Mode.REFRESH, "only-if-cached": Mode.ONLY}


def parse_controls(headers: Headers, *, off_by_default: bool = False) -> Controls:
    """The controls in the headers of a request. ``X-Tallygate-Cache`` beats ``Cache-Control`` where both name a mode.
    ``off_by_default``: without the former, the cache is off.

    Raises:
        MeshError: INVALID_REQUEST for a value that means nothing, or for two that exclude each other.
    """
    # A list may come in several lines, one of them a proxy's (RFC 9110, 5.3).
    ours, standard = headers.getlist("x-tallygate-cache"), headers.getlist("cache-control")
    if not ours and not standard:
        return _OFF if off_by_default else _NONE
    named, sampled = _ours(",".join(ours))
    directed, max_age_s = _standard(",".join(standard))
    if off_by_default and not ours:
        return _OFF
    return Controls(named or directed or Mode.DEFAULT, max_age_s, sampled)


_NONE, _OFF = Controls(), Controls(Mode.OFF)
_MODE_OF_WORD = {"on": Mode.DEFAULT, "off": Mode.OFF, "refresh": Mode.REFRESH, "only": Mode.ONLY}


def _ours(value: str) -> tuple[Mode | None, bool]:
    modes, sampled = set(), False
    for word in _words(value):
        if word == "sampled":
            sampled = True
        elif word in _MODE_OF_WORD:
            modes.add(_MODE_OF_WORD[word])
        else:
            raise invalid(f"{CACHE_HEADER} takes on, off, refresh, only and sampled, not {word[:40]!r}.")
    if len(modes) > 1:
        raise invalid(f"{CACHE_HEADER} takes one of on, off, refresh and only, not several.")
    return (modes.pop() if modes else None), sampled


def _standard(value: str) -> tuple[Mode | None, int | None]:
    mode, max_age_s = None, None
    for word in _words(value):
        name, _, argument = word.partition("=")
        if name == "max-age":
            argument = argument.strip('"')
            if not (argument.isascii() and argument.isdigit()):
                raise invalid(f"Cache-Control: max-age takes a number of seconds, not {argument[:40]!r}.")
            max_age_s = _MAX_AGE_LIMIT_S if len(argument) > 10 else min(int(argument), _MAX_AGE_LIMIT_S)
        elif name in _MODE_OF_DIRECTIVE and mode is not Mode.OFF:
            mode = _MODE_OF_DIRECTIVE[name]
    return mode, max_age_s


def _words(value: str) -> list[str]:
    return [word for part in value.lower().split(",") if (word := part.strip())]


def status_hit(tier: str, key_digest: str) -> str:
    """``Cache-Status`` of a replay."""
    return f'Tallygate; hit; key="{key_digest[:16]}"; detail={tier}'


def status_collapsed(tier: str, key_digest: str = "") -> str:
    """``Cache-Status`` of an answer that was called for by another, identical request (RFC 9211, 2.6)."""
    key = f'; key="{key_digest[:16]}"' if key_digest else ""
    return f"Tallygate; fwd=miss; collapsed{key}; detail={tier}"


def status_forward(why: str, detail: str = "") -> str:
    """``Cache-Status`` of a fresh answer; ``why`` is one of RFC 9211's fwd values, or none of the cache's business."""
    return f'Tallygate; fwd={why}; detail="{_quotable(detail)}"' if detail else f"Tallygate; fwd={why}"


def _quotable(text: str) -> str:
    """Text as the inside of an RFC 8941 string: printable ASCII, quotes and backslashes escaped."""
    printable = "".join(char if " " <= char <= "~" else "?" for char in text[:200])
    return printable.replace("\\", "\\\\").replace('"', '\\"')
