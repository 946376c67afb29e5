"""Exports: rows streamed as JSON lines or as CSV, in constant memory, ended by a checksum of all that came before it.

How many rows there are and what they hash to is known only at the end, so it stands there: the last line of JSON lines
is ``{"object":"export.summary","rows":N,"sha256":"HEX"}``, that of CSV is ``# rows=N sha256=HEX``. An export without it
was cut off. SHA-256 is over the bytes of all lines before the last, with their line ends.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import orjson

ExportRow = Mapping[str, Any]
"""A row by its columns, in JSON values."""

SUMMARY_OBJECT = "export.summary"
_CHUNK_BYTES = 32 * 1_024


def checked_jsonl(rows: AsyncIterator[ExportRow]) -> AsyncIterator[bytes]:
    """Each row as a JSON object on a line of its own, then the summary. Lines end with LF."""
    return _Checked(rows, _json_line).stream(
        b"", lambda count, digest: _json_line({"object": SUMMARY_OBJECT, "rows": count, "sha256": digest})
    )


def checked_csv(columns: Sequence[str], rows: AsyncIterator[ExportRow]) -> AsyncIterator[bytes]:
    """A line with the names of ``columns``, each row's values of them, then the summary. RFC 4180: lines end with CRLF.
    A value that is no text: null is empty, truth values are ``true`` and ``false``, lists and objects are JSON.

    Raises:
        KeyError: a row lacks a column.
    """
    line = _CsvLine()
    return _Checked(rows, lambda row: line([_cell(row[name]) for name in columns])).stream(
        line(columns), lambda count, digest: f"# rows={count} sha256={digest}\r\n".encode()
    )


class _Checked:
    """Counts and hashes the rows that it lets through, in pieces of some size."""

    def __init__(self, rows: AsyncIterator[ExportRow], encode: Callable[[ExportRow], bytes]) -> None:
        self._rows = rows
        self._encode = encode

    async def stream(self, head: bytes, summary: Callable[[int, str], bytes]) -> AsyncIterator[bytes]:
        hashed, count, waiting = hashlib.sha256(), 0, bytearray(head)
        async for row in self._rows:
            waiting += self._encode(row)
            count += 1
            if len(waiting) >= _CHUNK_BYTES:
                piece, waiting = bytes(waiting), bytearray()
                hashed.update(piece)
                yield piece
        hashed.update(waiting)
        yield bytes(waiting) + summary(count, hashed.hexdigest())


class _CsvLine:
    """Writes one line at a time: the writer of the standard library wants a file."""

    def __init__(self) -> None:
        self._line = ""
        self._writer = csv.writer(self)

    def write(self, text: str) -> None:
        self._line = text

    def __call__(self, values: Sequence[str]) -> bytes:
        self._writer.writerow(values)
        return self._line.encode()


def _json_line(row: ExportRow) -> bytes:
    return orjson.dumps(dict(row), option=orjson.OPT_APPEND_NEWLINE)


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else orjson.dumps(value).decode()
