"""Counting tokens offline, for sources that are silent about usage."""

from __future__ import annotations

import threading
import warnings
from typing import TYPE_CHECKING

from router_svc.domain.tokenizer import Tokenizer, Vocabulary, count_text

if TYPE_CHECKING:
    import bpe_openai


class OfflineTokens:
    """Counts a text by the tokenizer of its model. Call it from a thread: the first call of a vocabulary takes 0.7 s.

    Vocabularies are loaded on first use, because each takes some 140 MB and most routers never need one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._encodings: dict[Vocabulary, bpe_openai.Encoding] = {}

    def __call__(self, text: str, tokenizer: Tokenizer) -> int:
        """The tokens of ``text``; names of special tokens are plain text."""
        return count_text(text, tokenizer, self._encode)

    def _encode(self, text: str, vocabulary: Vocabulary) -> int:
        with self._lock:
            if vocabulary not in self._encodings:
                self._encodings[vocabulary] = _load(vocabulary)
        return len(self._encodings[vocabulary].encode(text, disallowed_special=()))


def _load(vocabulary: Vocabulary) -> bpe_openai.Encoding:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its import reads data by a deprecated call
        import bpe_openai  # noqa: PLC0415 - see the class

    return bpe_openai.get_encoding(vocabulary.value)
