"""Event streams cut anywhere."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_svc.sources.sse import EventTooLarge, SseParser

# What a line of data may hold: anything but line ends. Without a leading space, which the field's separator would take.
_texts = st.binary(max_size=40).filter(lambda b: b"\n" not in b and b"\r" not in b and not b.startswith(b" "))
_events = st.lists(st.lists(_texts, min_size=1, max_size=3), max_size=8)
_ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
_noise = st.sampled_from(
    [b"", b": OPENROUTER PROCESSING", b"event: message", b"id: 7", b"retry: 10", b":", b"data-x: y"]
)
_separators = st.sampled_from([b"data: ", b"data:"])


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """Bytes of a stream and the payloads in it."""
    parts: list[bytes] = [draw(st.sampled_from([b"", b"\xef\xbb\xbf"]))]
    payloads: list[bytes] = []
    for lines in draw(_events):
        noise = draw(_noise)
        if noise:
            parts.append(noise + draw(_ends))
        for line in lines:
            parts.append(draw(_separators) + line + draw(_ends))
        end = draw(_ends)
        if parts[-1].endswith(b"\r") and end == b"\n":
            end = b"\r\n"  # a bare \n here would belong to the \r before it
        parts.append(end)
        payloads.append(b"\n".join(lines))
    return b"".join(parts), payloads


def split_at(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@given(stream=streams(), cuts=st.lists(st.integers(0, 10_000), max_size=12))
def test_any_split_of_the_bytes_gives_the_same_payloads(stream: tuple[bytes, list[bytes]], cuts: list[int]) -> None:
    data, payloads = stream
    parser = SseParser(10_000)
    got = [event for read in split_at(data, cuts) for event in parser.feed(read)]
    assert got + parser.finish() == payloads


_plain = st.binary(max_size=20).map(lambda text: b"data: " + text.translate(None, b"\r\n") + b"\n\n")
_odd = st.sampled_from(
    [
        b": note\n\n",
        b"data:x\n\n",
        b"data: a\ndata: b\n\n",
        b"\n",
        b"data: a\r\n\r\n",
        b"data: a\n",
        b"event: e\n",
        b"\r",
    ]
)


@given(
    parts=st.lists(st.one_of(_plain, _plain, _plain, _odd), max_size=12),
    cuts=st.lists(st.integers(0, 1_000), max_size=4),
)
def test_events_of_one_line_are_read_as_line_by_line(parts: list[bytes], cuts: list[int]) -> None:
    data = b"".join(parts)
    by_line, by_read = SseParser(10_000), SseParser(10_000)
    slowly = [event for byte in data for event in by_line.feed(bytes([byte]))] + by_line.finish()
    assert [event for read in split_at(data, cuts) for event in by_read.feed(read)] + by_read.finish() == slowly


@given(stream=streams())
def test_byte_by_byte_gives_the_same_payloads(stream: tuple[bytes, list[bytes]]) -> None:
    data, payloads = stream
    parser = SseParser(10_000)
    assert [event for byte in data for event in parser.feed(bytes([byte]))] + parser.finish() == payloads


def test_an_event_is_given_with_the_read_that_ends_it() -> None:
    parser = SseParser(100)
    assert parser.feed(b"data: one\r\n\r") == [b"one"]
    assert parser.feed(b"\ndata: two\n") == []
    assert parser.feed(b"\n") == [b"two"]


def test_an_event_without_its_blank_line_is_given_at_the_end() -> None:
    parser = SseParser(100)
    assert parser.feed(b"data: [DONE]") == []
    assert parser.finish() == [b"[DONE]"]
    assert parser.finish() == []


@pytest.mark.parametrize("read", [b"data: " + b"x" * 20, b"data: xxxxx\n" * 3])
def test_an_event_beyond_the_limit_is_refused(read: bytes) -> None:
    parser = SseParser(20)
    with pytest.raises(EventTooLarge):
        parser.feed(read)


def test_a_long_stream_of_small_events_is_not_refused() -> None:
    parser = SseParser(20)
    assert parser.feed(b"data: xxxxx\n\n" * 100) == [b"xxxxx"] * 100
