"""Frames of server-sent events."""

from __future__ import annotations

import pytest

from edge.wire import sse


@pytest.mark.parametrize(
    ("payloads", "text"),
    [
        ([], b""),
        ([b"{}"], b"data: {}\n\n"),
        ([b'{"a":1}', b'{"b":2}'], b'data: {"a":1}\n\ndata: {"b":2}\n\n'),
        ([b"", b""], b"data: \n\ndata: \n\n"),
        ([b'{"a":1}', b'{\n"b":\r\n2}'], b'data: {"a":1}\n\ndata: { "b":  2}\n\n'),
        ([b'{"a":\r1}', b"{}"], b'data: {"a": 1}\n\ndata: {}\n\n'),
        ([b"{\n\ndata: }"], b"data: {  data: }\n\n"),
    ],
)
def test_each_payload_is_one_line_of_its_own(payloads: list[bytes], text: bytes) -> None:
    assert sse.frames(payloads) == text
