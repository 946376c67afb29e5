"""How a call of a source fails, and what a caller is told when all of them did."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from router_svc.domain.errors import (
    DeadlineExceeded,
    ProviderKeyRejected,
    RouterError,
    UpstreamFailed,
    UpstreamRateLimited,
    UpstreamRejected,
)


class FailureKind(Enum):
    """Why a call of a source failed; the values are what an attempt records."""

    CONNECT = "connect"
    TIMEOUT = "timeout"
    STATUS = "status"
    PROTOCOL = "protocol"
    CUT = "cut"
    ERROR_EVENT = "error_event"
    TOO_LARGE = "too_large"
    RATE_LIMITED = "rate_limited"
    UNAUTHORIZED = "unauthorized"
    KEY_REJECTED = "key_rejected"
    """The organisation's own key was refused; UNAUTHORIZED is the operator's."""
    REJECTED = "rejected"
    BUSY = "busy"


class SourceFailure(Exception):
    """A call of a source failed. ``message`` may be shown to the caller: it never holds a key or a prompt.

    ``http_status`` 0: there was no answer. ``param`` and ``code``: as the source gave them with a rejection.
    ``retry_after_s``: when the source says that it may be called again; 0: it does not say.
    """

    def __init__(
        self,
        kind: FailureKind,
        message: str,
        *,
        http_status: int = 0,
        param: str = "",
        code: str = "",
        retry_after_s: int = 0,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.http_status = http_status
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    @property
    def elsewhere(self) -> bool:
        """Another source may do better: the request itself was not refused. And it may be asked: an own key that is
        refused is its owner's to put right, and must not become a charge at the operator's price unseen.
        """
        return self.kind not in {FailureKind.REJECTED, FailureKind.KEY_REJECTED}


def error_of(failures: Sequence[tuple[str, SourceFailure]]) -> RouterError:
    """What the caller is told after the last of these failures, each with the id of its source."""
    source_id, last = failures[-1]
    if last.kind is FailureKind.REJECTED:
        facts = {"source_id": source_id, "param": last.param, "code": last.code}
        return UpstreamRejected(last.message, {name: value for name, value in facts.items() if value})
    if last.kind is FailureKind.KEY_REJECTED:
        return ProviderKeyRejected(
            f"{source_id} refused the provider key that your organisation brought for it: {last.message}",
            {"source_id": source_id},
        )
    facts = {source: failure.kind.value for source, failure in failures}
    if all(failure.kind is FailureKind.RATE_LIMITED for _, failure in failures):
        # One that does not say may be ready at once, and then so is the request.
        soonest_s = min(failure.retry_after_s for _, failure in failures)
        if soonest_s:
            facts["retry_after_s"] = str(soonest_s)
        return UpstreamRateLimited("every source that could take the request is rate limited", facts)
    named = "; ".join(f"{source}: {failure.message}" for source, failure in failures)
    return UpstreamFailed(f"no source answered ({named})", facts)


def broken_off(source_id: str, failure: SourceFailure) -> RouterError:
    """What the caller is told when a source fails after it has begun to answer."""
    facts = {"source_id": source_id, "failure": failure.kind.value}
    if failure.kind is FailureKind.TIMEOUT:
        return DeadlineExceeded(f"{source_id}: {failure.message}", facts)
    return UpstreamFailed(f"{source_id} broke off: {failure.message}", facts)
