"""What an adapter needs of HTTP: a POST, and its answer read as it arrives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from router_svc.domain.failure import FailureKind, SourceFailure


class HttpAnswer(Protocol):
    """The answer to one request. Whoever has it ends it: by ``finish`` or by ``close``, which may be called again."""

    status: int

    def header(self, name: str) -> str:
        """The value of a header, its name in lower case; "" where there is none."""

    async def read(self, by: float | None = None) -> bytes:
        """All of the body that has arrived since, decoded; waits for something; b"" at the end. ``by``: the time of the
        loop until when to wait, if that is before the patience of the request ends.

        Raises:
            SourceFailure: TIMEOUT, CUT, PROTOCOL. The connection is closed.
        """

    async def finish(self) -> None:
        """The rest matters to nobody: it is thrown away if it comes in a moment, and the connection used again."""

    def close(self) -> None:
        """Nothing more is wanted. In the middle of an answer this closes the connection, which the source hears."""


class SourceHttp(Protocol):
    """Pooled connections to sources: no redirects, no cookies, no proxies, nothing from the environment.

    A request is written to a connection once: a source may have worked on it, and billed it, whatever happens then.
    """

    async def post(
        self,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        connect_s: float,
        head_s: float,
        read_s: float,
    ) -> HttpAnswer:
        """Send JSON, and wait for the head of the answer. ``headers``: beside Host, User-Agent, Content-Type,
        Content-Length and Accept-Encoding, which are set here.

        Patience, in seconds: ``connect_s`` for a connection, ``head_s`` for the head, with what connecting took, and
        ``read_s`` for each read of the body.

        Raises:
            SourceFailure: CONNECT, TIMEOUT, CUT, PROTOCOL.
        """


def unconnected() -> SourceFailure:
    """No connection: the source heard nothing of the request."""
    return SourceFailure(FailureKind.CONNECT, "no connection")


def too_late() -> SourceFailure:
    """Patience ended."""
    return SourceFailure(FailureKind.TIMEOUT, "no answer in time")


def malformed() -> SourceFailure:
    """What came is not an answer in HTTP."""
    return SourceFailure(FailureKind.PROTOCOL, "not valid HTTP")


def cut_off() -> SourceFailure:
    """The connection ended in the middle."""
    return SourceFailure(FailureKind.CUT, "the connection was cut")
