"""Every call in the mesh has a deadline. grpc.aio does not pass it on; this module does.

The ambient deadline lives in a context variable: the server interceptor sets it from the incoming call, the client
interceptor takes the nearer of it and the call's own ``timeout``. A call with neither is refused before it leaves.
"""

from __future__ import annotations

import time
from contextvars import ContextVar, Token

_deadline_at: ContextVar[float | None] = ContextVar("deadline_at", default=None)


class deadline:
    """Sets the ambient deadline for what runs inside: ``timeout_s`` from now, or the surrounding one where that is
    nearer.

    ``detached``: forget the surrounding one; for work that outlives the call that began it. A context manager, sync;
    it does not stop what runs inside, it bounds the calls made there.
    """

    # A class, because it is entered on every call, where a generator costs three times as much.
    __slots__ = ("_at", "_detached", "_token")

    def __init__(self, timeout_s: float, *, detached: bool = False) -> None:
        self._at = time.monotonic() + timeout_s
        self._detached = detached
        self._token: Token[float | None] | None = None

    def __enter__(self) -> None:
        surrounding = _deadline_at.get()
        nearer = self._detached or surrounding is None or self._at < surrounding
        self._token = _deadline_at.set(self._at if nearer else surrounding)

    def __exit__(self, *exc_info: object) -> None:
        assert self._token is not None
        _deadline_at.reset(self._token)


def remaining_s() -> float | None:
    """Seconds to the ambient deadline, not below 0; None where there is none."""
    at = _deadline_at.get()
    return None if at is None else max(0.0, at - time.monotonic())
