"""Moments of a fresh call at which a process may die."""

from __future__ import annotations


class CallSeam:
    """Those moments, for a test that kills a process there. In production nothing happens."""

    def streaming(self) -> None:
        """The first of a stream has been handed on, and there is more to come."""

    def used(self) -> None:
        """What was used is known, and not settled."""

    def settled(self) -> None:
        """The charge is durable; neither the client nor the cache has been told."""
