"""Header lines as a server gives and takes them: bytes, the names in lower case."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from starlette.types import Scope

Lines = list[tuple[bytes, bytes]]
_SCOPE_KEY = "tallygate.header_lines"


class HeaderLines:
    """Those of a request, by their name, which is given in lower case. Most headers that are asked for are not there,
    and that is known without looking at each line.
    """

    __slots__ = ("_lines", "_names")

    def __init__(self, lines: Iterable[tuple[bytes, bytes]]) -> None:
        self._lines = list(lines)
        self._names = {name for name, _ in self._lines}

    @classmethod
    def of(cls, scope: Scope) -> Self:
        """Of the request of an ASGI scope; made once."""
        made: Self | None = scope.get(_SCOPE_KEY)
        if made is None:
            made = scope[_SCOPE_KEY] = cls(scope["headers"])
        return made

    def __contains__(self, name: bytes) -> bool:
        return name in self._names

    def first(self, name: bytes) -> str | None:
        """The value of the first line of this name; None: there is none."""
        if name not in self._names:
            return None
        return next(value.decode("latin-1") for found, value in self._lines if found == name)

    def every(self, name: bytes) -> list[str]:
        """The values of all lines of this name."""
        if name not in self._names:
            return []
        return [value.decode("latin-1") for found, value in self._lines if found == name]

    def as_list(self, name: bytes) -> str:
        """The lines of this name as one list; one of them may be a proxy's (RFC 9110, 5.3)."""
        return ",".join(self.every(name))
