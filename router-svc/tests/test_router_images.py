"""What an image counts as: the makers' own examples, sizes read off real headers, and bounds that hold for all."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_svc.domain.images import (
    ANY_IMAGE_TOKENS,
    LOW_DETAIL_TOKENS,
    image_rule_of,
    image_tokens,
    most_image_tokens,
    read_image,
)

MODELS = (
    *(
        "gpt-4o",
        "gpt-4o-mini",
        "gpt-4.1-mini",
        "gpt-4.1-nano",
        "gpt-5",
        "gpt-5-nano",
        "gpt-5.4-nano",
        "gpt-5.5",
        "gpt-6.1-sol",
    ),
    *("o3", "o4-mini", "claude-opus-4-5", "claude-opus-5-5", "gemini-2.5-pro", "gemini-3.8-flash", "qwen3-vl-plus"),
)


def png(width: int, height: int) -> bytes:
    header = struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(header))


def jpeg(width: int, height: int, *, profile_bytes: int = 0) -> bytes:
    profile = b"".join(
        b"\xff\xe2" + struct.pack(">H", 60_002) + bytes(60_000) for _ in range(-(-profile_bytes // 60_000))
    )
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, height, width, 3) + bytes(9)
    return b"\xff\xd8\xff\xe0" + struct.pack(">H", 16) + b"JFIF\0" + bytes(9) + profile + frame


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + bytes(3)


def webp(width: int, height: int) -> bytes:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + size


def part(url: str, **fields: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **fields}}


def inline(content: bytes, media_type: str = "image/png", **fields: Any) -> dict[str, Any]:
    return part(f"data:{media_type};base64,{base64.b64encode(content).decode()}", **fields)


def tokens(model: str, content: dict[str, Any]) -> int:
    return image_tokens(read_image(content, measure=True), image_rule_of(model))


@pytest.mark.parametrize(
    ("model", "size", "detail", "expected"),
    [
        # https://platform.openai.com/docs/guides/images-vision#calculating-costs
        ("gpt-4o", (1024, 1024), "high", 765),
        ("gpt-4o", (2048, 4096), "high", 1105),
        ("gpt-4o", (4096, 8192), "low", 85),
        ("gpt-4o", (512, 512), "auto", 255),
        ("gpt-4o-mini", (1024, 1024), "high", 2833 + 4 * 5667),
        ("gpt-5", (1024, 1024), "high", 70 + 4 * 140),
        ("o3", (1024, 1024), "high", 75 + 4 * 150),
        ("gpt-4.1-mini", (1024, 1024), "high", 1659),  # 1024 patches x 1.62
        ("gpt-4.1-mini", (1800, 2400), "high", 2353),  # scaled to 1452 patches
        ("gpt-4.1-nano", (1800, 2400), "high", 3572),
        ("o4-mini", (32, 32), "high", 2),
        ("gpt-5.4", (1024, 1024), "auto", 1024),
        ("gpt-5.4", (8000, 8000), "auto", 2500),
        ("gpt-5.4", (8000, 8000), "original", 10_000),
        ("gpt-5.5", (8000, 8000), "auto", 10_000),
        ("gpt-5.4-mini", (8000, 8000), "original", 2465),  # scaled to 39 x 39 patches
        ("gpt-6.1-sol", (1920, 1080), "auto", 2448),  # 60 x 34 patches, not scaled, x 1.2
        ("gpt-6.1-sol", (4000, 3000), "high", 2942),  # scaled to 57 x 43 patches
        ("gpt-6.1-sol", (4000, 3000), "low", 231),
        # https://platform.claude.com/docs/en/build-with-claude/vision
        ("claude-sonnet-4-5", (200, 200), "auto", 54),
        ("claude-sonnet-4-5", (1000, 1000), "auto", 1334),
        ("claude-sonnet-4-5", (1092, 1092), "auto", 1590),
        ("claude-sonnet-4-5", (8000, 8000), "auto", 1600),
        ("claude-opus-5-5", (8000, 8000), "auto", 4784),
        # https://ai.google.dev/gemini-api/docs/tokens
        ("gemini-2.5-flash", (384, 384), "auto", 258),
        ("gemini-2.5-flash", (960, 540), "auto", 6 * 258),
        ("gemini-3.5-flash", (4000, 3000), "auto", 1120),
        ("gemini-3.5-flash", (4000, 3000), "low", 280),
    ],
)
def test_the_makers_examples(model: str, size: tuple[int, int], detail: str, expected: int) -> None:
    assert tokens(model, inline(png(*size), detail=detail)) == expected


@pytest.mark.parametrize(
    "content",
    [png(640, 480), jpeg(640, 480), jpeg(640, 480, profile_bytes=200_000), gif(640, 480), webp(640, 480)],
    ids=["png", "jpeg", "jpeg with profiles", "gif", "webp"],
)
def test_sizes_are_read_off_headers(content: bytes) -> None:
    assert read_image(inline(content + bytes(5_000)), measure=True).size == (640, 480)
    assert read_image(inline(content), measure=False).size is None


@pytest.mark.parametrize(
    "content",
    [
        part("https://example.com/cat.png"),
        part(""),
        part("data:"),
        part("data:image/png;base64,@@@"),
        part("data:image/png,raw"),
        part("data:image/png;base64," + "A" * 1_000_000),
        part("data:" + "a" * 1_000_000),
        inline(b"<svg width='1e9' height='1e9'/>", "image/svg+xml"),
        inline(png(0, 5)),
        inline(jpeg(5, 5)[:20]),
        inline(webp(5, 5)[:20]),
        {"type": "image_url", "image_url": 5},
        {"type": "image_url"},
        part(5),  # type: ignore[arg-type]
    ],
)
def test_of_an_image_without_a_size_the_most_is_counted(content: dict[str, Any]) -> None:
    assert tokens("gpt-4o", content) == 85 + 8 * 170
    assert tokens("claude-opus-4-5", content) == 1_600


@given(content=st.binary(max_size=80), head=st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"GIF89a", b"RIFF"]))
def test_no_image_breaks_the_reader(content: bytes, head: bytes) -> None:
    size = read_image(inline(head + content), measure=True).size
    assert size is None or min(size) > 0


@given(
    width=st.integers(1, 100_000),
    height=st.integers(1, 100_000),
    detail=st.sampled_from(["auto", "high", "low", "original"]),
)
@pytest.mark.parametrize("model", MODELS)
def test_no_image_counts_more_than_is_held_for_it(model: str, width: int, height: int, detail: str) -> None:
    rule = image_rule_of(model)
    sized, remote = inline(png(width, height), detail=detail), part("https://example.com/x", detail=detail)
    for content in (sized, remote):
        image = read_image(content, measure=True)
        most = most_image_tokens(read_image(content, measure=False), rule)
        assert most is None or 0 < image_tokens(image, rule) <= most
    assert tokens(model, sized) <= tokens(model, remote), "the most is the most"


def test_a_low_detail_is_a_promise_of_those_who_made_it() -> None:
    low = read_image(part("https://example.com/x", detail="low"), measure=False)
    assert most_image_tokens(low, image_rule_of("gpt-4o-mini")) == LOW_DETAIL_TOKENS
    for others in ("claude-opus-4-5", "qwen3-vl-plus", "mistral-large-2512", "unheard-of"):
        assert most_image_tokens(low, image_rule_of(others)) == ANY_IMAGE_TOKENS


def test_what_is_no_image_has_no_bound_of_its_own() -> None:
    for media_type in ("application/pdf", "video/mp4", ""):
        document = read_image(inline(b"%PDF-1.7", media_type), measure=False)
        assert most_image_tokens(document, image_rule_of("gpt-4o")) is None
    elsewhere = read_image(part("https://example.com/report.pdf"), measure=False)
    assert most_image_tokens(elsewhere, image_rule_of("gemini-2.5-pro")) is None
    assert most_image_tokens(elsewhere, image_rule_of("gpt-4o")) == ANY_IMAGE_TOKENS
