"""Bodies that come compressed, though it was asked that they do not: some servers before a source do it all the same.

Source: RFC 9110, 8.4.1. "deflate" is meant to have zlib's frame, and comes without it from some.
"""

from __future__ import annotations

import zlib

from router_svc.sources.http.port import malformed

_PIECE_BYTES = 1024 * 1024
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_KNOWN = frozenset({"gzip", "x-gzip", "deflate"})


class Decoder:
    """Undoes one content coding, a bounded piece at a time: a small body can be made to hold a large one."""

    def __init__(self, coding: str) -> None:
        if coding not in _KNOWN:
            raise malformed()
        self._raw_allowed = coding == "deflate"
        self._inflate = zlib.decompressobj(_GZIP_OR_ZLIB)
        self._waiting = b""
        self._begun = False

    @property
    def is_waiting(self) -> bool:
        """More can be had by feeding nothing."""
        return bool(self._waiting)

    @property
    def is_ended(self) -> bool:
        """The coding says that this was all."""
        return self._inflate.eof

    def feed(self, read: bytes) -> bytes:
        """The next piece.

        Raises:
            SourceFailure: PROTOCOL, it is not of this coding.
        """
        data = self._waiting + read if self._waiting else read
        try:
            piece = self._inflate.decompress(data, _PIECE_BYTES)
        except zlib.error:
            if self._begun or not self._raw_allowed:
                raise malformed() from None
            self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            try:
                piece = self._inflate.decompress(data, _PIECE_BYTES)
            except zlib.error:
                raise malformed() from None
        self._begun = True
        self._waiting = self._inflate.unconsumed_tail
        return piece
