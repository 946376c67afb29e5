"""What is done to what the cache keeps of an organisation, as the audit trail tells it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ledger_svc.domain.errors import InvalidRequest
from ledger_svc.domain.limits import MAX_TIME_MS, check_range, check_text
from ledger_svc.domain.trail import State

PURGE_SCOPES = frozenset({"organization", "project", "model", "key_prefix"})


class CacheAction(Enum):
    """What is done; the value is the action of the entry."""

    PURGED = "cache.purged"
    RECORDINGS_EXPORTED = "recordings.exported"
    RECORDINGS_FORGOTTEN = "recordings.forgotten"


@dataclass(frozen=True, slots=True)
class CacheDeed:
    """One of them. ``scope``: of a purge; ``from_ms``: of an export, the first moment of what is handed out."""

    org_id: str
    action: CacheAction
    subject: str
    scope: str = ""
    from_ms: int = 0

    def after(self) -> State:
        """What the trail says of it besides who and what."""
        if self.action is CacheAction.PURGED:
            return {"scope": self.scope}
        return {"from_ms": self.from_ms} if self.action is CacheAction.RECORDINGS_EXPORTED else {}


def check_deed(deed: CacheDeed) -> CacheDeed:
    """Bounds every number and text.

    Raises:
        InvalidRequest.
    """
    check_text("org_id", deed.org_id)
    check_text("subject", deed.subject)
    check_range("from_ms", deed.from_ms, 0, MAX_TIME_MS)
    if deed.action is CacheAction.PURGED and deed.scope not in PURGE_SCOPES:
        raise InvalidRequest("scope", f"of a purge is one of {', '.join(sorted(PURGE_SCOPES))}")
    return deed
