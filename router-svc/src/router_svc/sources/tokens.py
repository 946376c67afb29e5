"""Counting tokens offline, for sources that are silent about usage."""

from __future__ import annotations

import threading
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import bpe_openai


class OfflineTokens:
    """Counts by o200k_base, an estimate for other families. Call it from a thread: the first call takes 0.7 s.

    Loaded on first use, because the tables take 140 MB and most routers never need them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._encoding: bpe_openai.Encoding | None = None

    def __call__(self, text: str) -> int:
        """The tokens of ``text``; names of special tokens are plain text."""
        with self._lock:
            if self._encoding is None:
                self._encoding = _load()
        return len(self._encoding.encode(text, disallowed_special=()))


def _load() -> bpe_openai.Encoding:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its import reads data by a deprecated call
        import bpe_openai  # noqa: PLC0415 - see the class

    return bpe_openai.get_encoding("o200k_base")
