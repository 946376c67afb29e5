"""What a request asks of the cache, and what the answer says of it.

``X-Tallygate-Cache`` takes one of ``on``, ``off``, ``refresh`` and ``only``, and beside it ``sampled``, one of
``exact``, ``canonical`` and ``semantic``, ``ttl=SECONDS`` and ``max-error=SHARE``, as in
``X-Tallygate-Cache: refresh, sampled`` or ``X-Tallygate-Cache: semantic, max-error=0.01``. A key whose cache is off by
default replays and stores only for requests that have this header. A request asks for less than its key stands for,
never for more: a tier beyond the policy's, or a higher error bound, is refused; a longer time to live has no effect.
``Cache-Control`` is read as RFC 9111 section 5.2.1 has it; directives without a meaning here are passed over.
``Cache-Status`` is RFC 9211.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import Enum
from typing import TypeVar

from edge.errors import invalid, refusal
from edge.wire.header_lines import HeaderLines
from tallygate.common.v1.errors_pb2 import ErrorReason

CACHE_HEADER = "X-Tallygate-Cache"
_OURS, _STANDARD = CACHE_HEADER.lower().encode(), b"cache-control"
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


NO_CONTROLS = Controls()
"""Of a request that says nothing, of a key that says nothing."""
_MODE_OF_DIRECTIVE = {"no-store": Mode.OFF, "no-cache": Mode.REFRESH, "only-if-cached": Mode.ONLY}


def parse_controls(lines: HeaderLines, standing: Controls = NO_CONTROLS) -> Controls:
    """What a request asks: its headers, and what they don't say from ``standing``, the controls of its key.
    ``X-Tallygate-Cache`` beats ``Cache-Control`` where both name a mode; where the cache is off by default, it stays
    off without the former.

    Raises:
        MeshError: INVALID_REQUEST for a value that means nothing, or for two that exclude each other; PERMISSION_DENIED
            for more than the key may ask for.
    """
    if _OURS not in lines and _STANDARD not in lines:
        return standing
    wish = _ours(lines.as_list(_OURS))
    directed, max_age_s = _standard(lines.as_list(_STANDARD))
    if standing.mode is Mode.OFF and _OURS not in lines:
        return standing
    up_to = wish.tier or standing.up_to
    return replace(
        standing,
        mode=wish.mode or directed or Mode.DEFAULT,
        max_age_s=max_age_s,
        allow_sampled=wish.sampled or standing.allow_sampled,
        up_to=_admitted_tier(up_to, standing),
        max_error_ppm=_admitted_error(wish.max_error_ppm, up_to, standing),
        ttl_s=min(filter(None, (wish.ttl_s, standing.ttl_s)), default=0),
    )


def lets_itself_be_recorded(lines: HeaderLines) -> bool:
    """False for a request that itself says that nothing of it may be kept; RFC 9111, 5.2.1.5, means the request as well
    as the response. A key whose cache is off by default says nothing of the kind.
    """
    return "off" not in _words(lines.as_list(_OURS)) and "no-store" not in _words(lines.as_list(_STANDARD))


_MODE_OF_WORD = {"on": Mode.DEFAULT, "off": Mode.OFF, "refresh": Mode.REFRESH, "only": Mode.ONLY}
_TIERS = tuple(Tier)
_TIER_OF_WORD = {tier.value: tier for tier in _TIERS}
_TAKES = (
    f"{CACHE_HEADER} takes one of on, off, refresh and only, sampled, one of exact, canonical and semantic, "
    "ttl=SECONDS and max-error=SHARE"
)
_MILLION = 1_000_000
_SHARE = re.compile(r"(0?\.[0-9]{1,6}|0\.[0-9]{1,6}|1(\.0{1,6})?)")


@dataclass(slots=True)
class _Wish:
    """What ``X-Tallygate-Cache`` says."""

    mode: Mode | None = None
    tier: Tier | None = None
    sampled: bool = False
    ttl_s: int = 0
    max_error_ppm: int | None = None


def _ours(value: str) -> _Wish:
    wish = _Wish()
    for word in _words(value):
        if word == "sampled":
            wish.sampled = True
        elif word in _MODE_OF_WORD:
            wish.mode = _the_one("on, off, refresh and only", wish.mode, _MODE_OF_WORD[word])
        elif word in _TIER_OF_WORD:
            wish.tier = _the_one("exact, canonical and semantic", wish.tier, _TIER_OF_WORD[word])
        elif word.startswith("ttl="):
            wish.ttl_s = _seconds_to_live(word.removeprefix("ttl="))
        elif word.startswith("max-error="):
            wish.max_error_ppm = _ppm(word.removeprefix("max-error="))
        else:
            raise invalid(f"{_TAKES}, not {word[:40]!r}.")
    return wish


T = TypeVar("T", Mode, Tier)


def _the_one(words: str, before: T | None, now: T) -> T:
    if before not in {None, now}:
        raise invalid(f"{CACHE_HEADER} takes one of {words}, not several.")
    return now


def _seconds_to_live(argument: str) -> int:
    if not (argument.isascii() and argument.isdigit() and int(argument[:20])):
        raise invalid(f"{CACHE_HEADER}: ttl takes a number of seconds of 1 or more, not {argument[:40]!r}.")
    return _MAX_AGE_LIMIT_S if len(argument) > 10 else min(int(argument), _MAX_AGE_LIMIT_S)


def _ppm(argument: str) -> int:
    ppm = int(Decimal(argument) * _MILLION) if _SHARE.fullmatch(argument) else 0
    if not ppm:
        raise invalid(
            f"{CACHE_HEADER}: max-error takes the share of replays that may be wrong, above 0 and up to 1, with up to "
            f"six places, such as 0.01, not {argument[:40]!r}. To allow none, ask for `canonical` or `exact`."
        )
    return ppm


def _admitted_tier(wished: Tier, standing: Controls) -> Tier:
    if _TIERS.index(wished) > _TIERS.index(standing.up_to):
        raise refusal(
            ErrorReason.ERROR_REASON_PERMISSION_DENIED,
            f"This key replays answers up to the {standing.up_to.value} tier, and the request asks for {wished.value}. "
            "An account key can allow that, for this key, its project or the organisation: "
            f'PATCH /v1/keys/KEY_ID/cache with {{"up_to": "{wished.value}"}}.',
        )
    return wished


def _admitted_error(wished_ppm: int | None, up_to: Tier, standing: Controls) -> int | None:
    if wished_ppm is None:
        return standing.max_error_ppm
    if up_to is not Tier.SEMANTIC:
        raise invalid(f"{CACHE_HEADER}: max-error is for the semantic tier, and the request asks up to {up_to.value}.")
    if standing.max_error_ppm is not None and wished_ppm > standing.max_error_ppm:
        raise refusal(
            ErrorReason.ERROR_REASON_PERMISSION_DENIED,
            f"This key accepts wrong replays up to a share of {format_ppm(standing.max_error_ppm)}, and the request "
            "asks for more. An account key can allow that: PATCH /v1/keys/KEY_ID/cache with `max_error`.",
        )
    return wished_ppm


def format_ppm(ppm: int) -> str:
    """Parts per million as a decimal share: 10,000 is "0.01"."""
    return format((Decimal(ppm) / _MILLION).normalize(), "f")


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


def status_hit(tier: str, key_digest: str, similarity_ppm: int = 0) -> str:
    """``Cache-Status`` of a replay. ``similarity_ppm``: of the two questions, in parts per million; 0: not measured."""
    detail = f'"{tier}; similarity={similarity_ppm / 1_000_000:.3f}"' if similarity_ppm else tier
    return f'Tallygate; hit; key="{key_digest[:16]}"; detail={detail}'


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
