"""A secret in memory: what holds it may be printed, logged or shown in a traceback, and it is not."""

from __future__ import annotations

import hmac
from typing import NoReturn

HIDDEN = "***"


class Secret:
    """A text that only ``reveal`` gives. It can't be pickled, and two are compared in constant time."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text, for whoever sends or encrypts it."""
        return self._text

    def __repr__(self) -> str:
        return HIDDEN

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return HIDDEN

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret does not leave the process by being pickled")
