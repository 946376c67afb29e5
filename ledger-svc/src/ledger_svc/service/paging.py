"""Pages of a list: their size, and the token that says where the next one begins."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from typing import TypeVar

from ledger_svc.domain.errors import InvalidRequest
from ledger_svc.domain.limits import MAX_TIME_MS, check_range, check_text

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
    try:
        at_ms, name = json.loads(base64.b64decode(page_token, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, TypeError):
        raise InvalidRequest("page_token", "is not one that this ledger gave") from None
    if type(at_ms) is not int or type(name) is not str:
        raise InvalidRequest("page_token", "is not one that this ledger gave")
    # What no database takes was not given either.
    return check_range("page_token", at_ms, 0, MAX_TIME_MS), check_text("page_token", name, empty=True)


def _encode(position: Position) -> str:
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode()
