"""Refuses JSON with so many values that reading it would keep every other request waiting.

A parse runs to its end: two million members of a few bytes each take the loop for a second, where a text of the same
size takes milliseconds. What is counted costs a thousandth of that.
"""

from __future__ import annotations

from edge.errors import refusal
from tallygate.common.v1.errors_pb2 import ErrorReason

MAX_VALUES = 200_000
"""Members of objects and elements of arrays in one body. The longest real conversations have some ten thousand."""
_LEAST_BYTES = 2 * MAX_VALUES
"""A body of fewer has no room for so many."""
_BEFORE_A_VALUE = (b",", b"[", b"{")


def refuse_too_many_values(body: bytes) -> None:
    """Passes a body of at most ``MAX_VALUES`` values. It need not be JSON: the parser refuses what is not.

    Raises:
        MeshError: REQUEST_TOO_LARGE. A body with more than twice as many quotation marks, in its texts or around them,
            is refused if it has as many commas and brackets anywhere: to tell which are where would take too long.
    """
    if len(body) <= _LEAST_BYTES or _begun(body) <= MAX_VALUES:
        return
    if body.count(b'"') > 2 * MAX_VALUES or _begun_outside_texts(body) > MAX_VALUES:
        raise refusal(
            ErrorReason.ERROR_REASON_REQUEST_TOO_LARGE,
            f"The request body has more than the {MAX_VALUES} values (members and elements, those within others "
            "included) that are allowed. Send fewer.",
        )


def _begun(piece: bytes) -> int:
    return sum(map(piece.count, _BEFORE_A_VALUE))


def _begun_outside_texts(body: bytes) -> int:
    count, in_text = 0, False
    for piece in body.split(b'"'):
        if not in_text:
            count += _begun(piece)
            in_text = True
        elif not _ends_in_escape(piece):
            in_text = False
    return count


def _ends_in_escape(piece: bytes) -> bool:
    """Whether the quotation mark behind it is part of the text."""
    return piece.endswith(b"\\") and (len(piece) - len(piece.rstrip(b"\\"))) % 2 == 1
