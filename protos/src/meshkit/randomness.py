"""Random bytes in small pieces, taken from the operating system by the thousand.

A system call for each piece cost more than everything that is done with it: six of them a request.
"""

from __future__ import annotations

import os
from collections import deque

PIECES = 512
"""Fetched at a time."""


class Supply:
    """Pieces of ``piece_bytes`` random bytes each, no two of them from the same bytes of the system's.

    Any thread may take one: taking off a deque is atomic. A forked child begins with an empty supply, or it would have
    the same bytes as its parent.
    """

    __slots__ = ("_piece_bytes", "_pieces")

    def __init__(self, piece_bytes: int) -> None:
        self._piece_bytes = piece_bytes
        self._pieces: deque[bytes] = deque()
        os.register_at_fork(after_in_child=self._pieces.clear)

    def take(self) -> bytes:
        """A piece that nobody had before."""
        try:
            return self._pieces.pop()
        except IndexError:
            size = self._piece_bytes
            fetched = os.urandom(PIECES * size)
            self._pieces.extend(fetched[start : start + size] for start in range(size, len(fetched), size))
            return fetched[:size]
