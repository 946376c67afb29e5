"""What an image counts as, by the published rule of the model's maker.

OpenAI: https://platform.openai.com/docs/guides/images-vision (model sizing behavior, calculating costs). Tiles: fit
into 2048 x 2048, then the shorter side down to 768, a price for each 512 x 512 and a base; patches: 32 x 32 each,
scaled down into a budget of the model and the detail, times a factor. Anthropic:
https://platform.claude.com/docs/en/build-with-claude/vision, width x height / 750 after scaling to the longest edge and
the most tokens. Gemini: https://ai.google.dev/gemini-api/docs/tokens and .../media-resolution, 258 up to 384 x 384,
else 258 a crop; from Gemini 3 on a fixed count. Others publish no rule for their endpoints; most see patches of 28 x
28.
"""

from __future__ import annotations

import base64
import math
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import Any

import imagesize

ANY_IMAGE_TOKENS = 50_000
"""More than one image is by any rule: eight high-detail tiles of a small OpenAI model are 48,169 tokens."""
LOW_DETAIL_TOKENS = 3_000
"""The same with OpenAI's ``detail: low``; others may not heed it."""

_DATA = "data:"
_MOST_HEAD_CHARS = 256
_IMAGE_CHARS = 512 * 1024
"""An image tells its size near its beginning; photographs have previews and profiles before it."""
_FORMATS = (b"\x89PNG", b"\xff\xd8", b"GIF8", b"RIFF")
"""What sources take: PNG, JPEG, GIF, WebP. No others are looked into: a stranger wrote them."""
_OTHERS_MOST = 4_096
_PATCH = 32


@dataclass(frozen=True, slots=True)
class Image:
    """An image of a request. ``media_type``: of a data URL; empty for one elsewhere. ``size`` None: not known."""

    detail: str
    media_type: str
    size: tuple[int, int] | None

    @property
    def may_be_more(self) -> bool:
        """It says that it is no image: Gemini takes documents and videos this way, without a bound of our own."""
        return bool(self.media_type) and not self.media_type.startswith("image/")


@dataclass(frozen=True, slots=True)
class ImageRule:
    """``tokens``: of an image of that width and height, or None for the most that the rule makes of one.
    ``heeds_low``: ``detail: low`` is a promise. ``fetches_anything``: what a URL leads to may be more than an image.
    """

    tokens: Callable[[tuple[int, int] | None, str], int]
    heeds_low: bool = False
    fetches_anything: bool = False


def read_image(part: Mapping[str, Any], *, measure: bool) -> Image:
    """The image of an ``image_url`` part. ``measure``: also read its size, where it is in the request."""
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, Mapping) else image
    detail = image.get("detail") if isinstance(image, Mapping) else None
    detail = detail if isinstance(detail, str) else "auto"
    if not isinstance(url, str) or url[: len(_DATA)].lower() != _DATA:
        return Image(detail, "", None)
    head, comma, _ = url[len(_DATA) : _MOST_HEAD_CHARS].partition(",")
    media_type, *parameters = head.lower().split(";")
    at = len(_DATA) + len(head) + 1
    inline = measure and bool(comma) and "base64" in parameters
    return Image(detail, media_type or "text/plain", _size_in(url[at : at + _IMAGE_CHARS]) if inline else None)


def image_tokens(image: Image, rule: ImageRule) -> int:
    """What the image counts as; the most that one can where its size is not known."""
    return rule.tokens(image.size, image.detail)


def most_image_tokens(image: Image, rule: ImageRule) -> int | None:
    """No source of this rule counts more. None: only the model's context bounds it."""
    if image.may_be_more or (rule.fetches_anything and not image.media_type):
        return None
    return LOW_DETAIL_TOKENS if rule.heeds_low and image.detail == "low" else ANY_IMAGE_TOKENS


def _size_in(encoded: str) -> tuple[int, int] | None:
    try:
        header = base64.b64decode(encoded[: len(encoded) // 4 * 4])
        width, height = imagesize.get(BytesIO(header)) if header.startswith(_FORMATS) else (-1, -1)
    except (ValueError, LookupError, TypeError, OSError, struct.error):
        return None  # whatever it is, it does not tell its size
    return (round(width), round(height)) if width > 0 and height > 0 else None


def _scaled(size: tuple[int, int], factor: float) -> tuple[int, int]:
    return max(1, round(size[0] * min(1.0, factor))), max(1, round(size[1] * min(1.0, factor)))


def _pieces(size: tuple[int, int], edge: int) -> int:
    return math.ceil(size[0] / edge) * math.ceil(size[1] / edge)


def _within(size: tuple[int, int], budget: int) -> tuple[int, int]:
    """Scaled down until whole patches fit into the budget."""
    if _pieces(size, _PATCH) <= budget:
        return size
    factor = math.sqrt(_PATCH**2 * budget / (size[0] * size[1]))
    along = [max(1.0, edge * factor / _PATCH) for edge in size]
    return _scaled(size, factor * min(math.floor(patches) / patches for patches in along))


def _tiles(base: int, tile: int) -> ImageRule:
    most = 8  # 768 x 2048

    def tokens(size: tuple[int, int] | None, detail: str) -> int:
        if detail == "low":
            return base
        if size is None:
            return base + tile * most
        fitted = _scaled(size, 2048 / max(size))
        return base + tile * _pieces(_scaled(fitted, 768 / min(fitted)), 512)

    return ImageRule(tokens, heeds_low=True)


@dataclass(frozen=True, slots=True)
class _Budget:
    """The most patches, and the longest edge in pixels."""

    patches: int
    edge: int


_LOW = _Budget(256, 512)
_SMALL = _Budget(1_536, 2_048)
_HIGH = _Budget(2_500, 2_048)
_ORIGINAL = _Budget(10_000, 6_000)
_AS_IT_IS = _Budget(30_000, 65_535)
"""What is larger is refused, not scaled."""


def _patches(percent: int, high: _Budget, original: _Budget | None = None, auto: _Budget | None = None) -> ImageRule:
    budgets = {"low": _LOW, "high": high, "original": original or high, "auto": auto or high}

    def tokens(size: tuple[int, int] | None, detail: str) -> int:
        budget = budgets.get(detail, budgets["auto"])
        patches = budget.patches
        if size is not None:
            patches = min(patches, _pieces(_within(_scaled(size, budget.edge / max(size)), budget.patches), _PATCH))
        return -(-patches * percent // 100)

    return ImageRule(tokens, heeds_low=True)


def _anthropic(longest_edge: int, most: int) -> ImageRule:
    def tokens(size: tuple[int, int] | None, _: str) -> int:
        if size is None:
            return most
        width, height = _scaled(size, longest_edge / max(size))
        return min(-(-width * height // 750), most)

    return ImageRule(tokens)


def _gemini_crops(size: tuple[int, int] | None, _: str) -> int:
    if size is None:
        return 258 * 24  # 3072 x 385, the most that is left after scaling to 3072
    if max(size) <= 384:
        return 258
    fitted = _scaled(size, 3072 / max(size))
    return 258 * _pieces(fitted, min(768, max(256, min(fitted) * 2 // 3)))


def _gemini_fixed(_: tuple[int, int] | None, detail: str) -> int:
    return 280 if detail == "low" else 1_120


def _others(size: tuple[int, int] | None, _: str) -> int:
    return _OTHERS_MOST if size is None else min(_pieces(size, 28), _OTHERS_MOST)


_OTHER = ImageRule(_others)
# The first that matches the model's or the source's name of a model.
_RULES = tuple(
    (re.compile(rf"(?<![a-z])(?:{pattern})", re.IGNORECASE), rule)
    for pattern, rule in (
        (r"gpt-4o-mini", _tiles(2_833, 5_667)),
        (r"gpt-4\.1-mini", _patches(162, _SMALL)),
        (r"gpt-4\.1-nano", _patches(246, _SMALL)),
        (r"gpt-5(\.\d)?-mini", _patches(162, _SMALL)),
        (r"gpt-5(\.\d)?-nano", _patches(246, _SMALL)),
        (r"gpt-5\.[6-9]|gpt-[6-9]", _patches(120, _HIGH, _AS_IT_IS, auto=_AS_IT_IS)),
        (r"gpt-5\.5", _patches(100, _HIGH, _ORIGINAL, auto=_ORIGINAL)),
        (r"gpt-5\.4", _patches(100, _HIGH, _ORIGINAL)),
        (r"gpt-5\.[23]|gpt-5.*codex", _patches(100, _SMALL)),
        (r"gpt-5", _tiles(70, 140)),
        (r"gpt-4|chatgpt-4", _tiles(85, 170)),
        (r"(?<!\d)o4-mini", _patches(172, _SMALL)),
        (r"(?<!\d)o[13](?![a-z0-9])", _tiles(75, 150)),
        (r"claude-([a-z]+-)?(4[-.][7-9]|[5-9])(?!\d)", _anthropic(2_576, 4_784)),
        (r"claude", _anthropic(1_568, 1_600)),
        (r"gemini-([3-9]|\d{2})|gemma", ImageRule(_gemini_fixed, fetches_anything=True)),
        (r"gemini", ImageRule(_gemini_crops, fetches_anything=True)),
    )
)


@lru_cache(maxsize=4_096)  # asked for each offer that a request could go to, and some forty patterns long
def image_rule_of(*names: str) -> ImageRule:
    """The rule of a model, by any of its names: the catalog's first, then the source's."""
    for name in names:
        for pattern, rule in _RULES:
            if pattern.search(name):
                return rule
    return _OTHER
