"""Why a use case can't do what was asked."""

from __future__ import annotations


class StoreUnavailable(Exception):
    """The backend is away. A lookup takes it for a miss; nobody leads a flight by it."""


class StoreFull(Exception):
    """The backend is there and took no more."""


class BadRequest(ValueError):
    """The call itself is not one that the contract allows."""
