"""What `tallygate verify` checks of an entry of the audit trail itself."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import rfc8785

from ledger_svc.domain.trail import decode
from tallygate_deploy.checking import Check, Passed, strict_json


def check_entry(document: bytes, entry_id: str) -> Iterator[Passed]:
    """That the document is an entry's, in its one form, and which; then what it says.

    Raises:
        VerificationError.
    """
    with Check("canonical form"):
        if rfc8785.dumps(strict_json(document.decode())) != document:
            raise ValueError("the audit entry is not RFC 8785 canonical JSON")
        entry = decode(document.decode())
        if entry.document().encode() != document:
            raise ValueError("the audit entry has other fields than one of version 1")
        if entry.entry_id != entry_id:
            raise ValueError(f"the audit entry is {entry.entry_id}, the file says {entry_id}")
    yield Passed("canonical form", f"{entry.entry_id} is RFC 8785 JSON with the fields of version 1")
    with Check("statement"):
        at = dt.datetime.fromtimestamp(entry.created_at_ms / 1_000, dt.UTC).isoformat(timespec="milliseconds")
        actor = entry.actor
        who = " ".join(part for part in (actor.kind.value, actor.id, actor.address and f"from {actor.address}") if part)
        whose = entry.org_id or "the whole installation"
    yield Passed(
        "statement", f"{at} {who}: {entry.action} {entry.subject} of {whose} (what it says, not that it is so)"
    )
