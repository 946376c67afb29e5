"""Pages of a list: their size, and the token that says where the next one begins."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ledger_svc.domain.errors import InvalidRequest
from ledger_svc.domain.limits import MAX_ID_CHARS, check_range

T = TypeVar("T")

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1_000

Position = tuple[int, str]
"""Where an item stands in a list: a time in Unix milliseconds, and an id to tell those of one time apart."""


def check_page_size(page_size: int) -> int:
    """The size of a page as asked for; 0: the default."""
    return check_range("page_size", page_size, 0, MAX_PAGE_SIZE) or DEFAULT_PAGE_SIZE


def page_of(found: Sequence[T], size: int, position_of: Callable[[T], Position]) -> tuple[list[T], str]:
    """The page, of up to ``size`` + 1 items that were found, and the token of the next one ("": there is none)."""
    if len(found) <= size:
        return list(found), ""
    return list(found[:size]), _encode(position_of(found[size - 1]))


def position_of_token(page_token: str) -> Position | None:
    """Behind which item a page begins; None: at the beginning.

    Raises:
        InvalidRequest: not a token that ``page_of`` gave.
    """
    if not page_token:
        return None
    found = _decode(page_token)
    if [type(part) for part in found] != [int, str] or not 0 <= found[0] < 2**63:
        raise _foreign()
    if not found[1].isprintable() or len(found[1]) > MAX_ID_CHARS:
        raise _foreign()
    return found[0], found[1]


def token_of_numbers(*numbers: int) -> str:
    """The token of a list whose place is some numbers."""
    return _encode(numbers)


def numbers_of_token(page_token: str, count: int) -> list[int]:
    """Those numbers.

    Raises:
        InvalidRequest: not a token that ``token_of_numbers`` gave.
    """
    found = _decode(page_token)
    if len(found) != count or any(type(number) is not int or not 0 <= number < 2**63 for number in found):
        raise _foreign()
    return found


def _decode(page_token: str) -> list[Any]:
    try:
        found = json.loads(base64.b64decode(page_token, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        raise _foreign() from None
    if type(found) is not list:
        raise _foreign()
    return found


def _foreign() -> InvalidRequest:
    return InvalidRequest("page_token", "is not one that this ledger gave")


def _encode(place: Sequence[int | str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()
