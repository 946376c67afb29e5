"""Exports as streams: what a client computes from the bytes is what the last line says."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from edge.export import checked_csv, checked_jsonl

ROWS: list[dict[str, Any]] = [
    {"id": "a", "name": 'quotes " and, commas\nand lines', "amount_usd": "0.000000001", "list": ["x"], "gone": None},
    {"id": "b", "name": "naïve 漢", "amount_usd": "12", "list": [], "gone": True},
]


async def _given(rows: list[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    for row in rows:
        yield row


async def _all(stream: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in stream])


async def test_json_lines_end_with_what_they_hash_to() -> None:
    *lines, last = (await _all(checked_jsonl(_given(ROWS)))).splitlines(keepends=True)
    assert [json.loads(line) for line in lines] == ROWS
    digest = hashlib.sha256(b"".join(lines)).hexdigest()
    assert json.loads(last) == {"object": "export.summary", "rows": 2, "sha256": digest}


async def test_csv_ends_with_what_it_hashes_to() -> None:
    body = await _all(checked_csv(["id", "name", "list", "gone"], _given(ROWS)))
    before, mark, last = body.rpartition(b"# rows=")
    assert (mark + last).decode() == f"# rows=2 sha256={hashlib.sha256(before).hexdigest()}\r\n"
    header, *rows = csv.reader(io.StringIO(before.decode(), newline=""))
    assert header == ["id", "name", "list", "gone"]
    assert rows == [["a", ROWS[0]["name"], '["x"]', ""], ["b", "naïve 漢", "[]", "true"]]


async def test_an_empty_export_has_its_summary() -> None:
    nothing = hashlib.sha256(b"").hexdigest()
    assert await _all(checked_jsonl(_given([]))) == b'{"object":"export.summary","rows":0,"sha256":"%s"}\n' % (
        nothing.encode()
    )
    assert (await _all(checked_csv(["id"], _given([])))).startswith(b"id\r\n# rows=0 sha256=")


async def test_an_export_that_fails_has_no_summary() -> None:
    async def failing() -> AsyncIterator[dict[str, Any]]:
        for n in range(5_000):
            yield {"id": str(n)}
        raise ConnectionError

    seen = []
    with pytest.raises(ConnectionError):
        async for piece in checked_jsonl(failing()):
            seen.append(piece)
    assert seen
    assert b"export.summary" not in b"".join(seen)


async def test_memory_does_not_grow_with_the_rows() -> None:
    async def many() -> AsyncIterator[dict[str, Any]]:
        for n in range(100_000):
            yield {"id": f"{n:08d}", "name": "x" * 100}

    tracemalloc.start()
    total = 0
    async for piece in checked_jsonl(many()):
        total += len(piece)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total > 10_000_000
    assert peak < 1_000_000
