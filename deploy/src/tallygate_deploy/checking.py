"""A check of `tallygate verify`: made and passed, left out, or failed; and how files of a stranger are read for it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ledger_svc.domain.errors import LedgerError
from ledger_svc.domain.signing import InvalidSignatureError

MAX_FILE_BYTES = 10_000_000


class VerificationError(Exception):
    """A check has failed."""

    def __init__(self, check: str, why: str) -> None:
        super().__init__(why)
        self.check = check


@dataclass(frozen=True, slots=True)
class Passed:
    """A check that was made, and what it found; or one that was left out, and why."""

    check: str
    found: str
    made: bool = True

    def __str__(self) -> str:
        return f"{'ok' if self.made else 'left out':8} {self.check}: {printable(self.found)}"


class Check:
    """Turns what a check stumbles over into its failure."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        expected = (
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            RecursionError,
            LedgerError,
            InvalidSignatureError,
        )
        if isinstance(error, expected):  # the file is a stranger's: whatever it lacks is the check's failure
            raise VerificationError(self._name, str(error)) from error


def strict_json(text: str) -> Any:
    """Raises:
    ValueError: not JSON, or a name stands twice in one object.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name stands twice in one object")
        return found

    return json.loads(text, object_pairs_hook=unique)


def load(path: Path) -> str:
    """A file's text; a byte that is no UTF-8 is left for the checks to stumble over.

    Raises:
        ValueError: larger than any proof.
    """
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"{path} is larger than any proof")
    return path.read_bytes().decode(errors="surrogateescape")


def printable(text: str) -> str:
    """A stranger's text, safe for a terminal."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
