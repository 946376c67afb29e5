"""The audit trail: who changed what of an account, when and from where, and what it was before and after.

An entry is written in the transaction of its change. Its document is RFC 8785 canonical JSON, as a receipt's is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from meshkit.principal import Actor

DOCUMENT_VERSION = 1

State = Mapping[str, Any]
"""What a thing was, as JSON values: texts, integers, truth values and lists of them. Amounts are decimal texts. Never
a secret.
"""


@dataclass(frozen=True, slots=True)
class TrailEntry:
    """One change. ``action``: the kind of thing and what happened to it, "key.created". ``subject``: its id. Empty
    ``before``: it was not there; empty ``after``: it is no more. ``org_id`` "": of the whole installation.
    """

    entry_id: str
    org_id: str
    created_at_ms: int
    actor: Actor
    action: str
    subject: str
    before: State = field(default_factory=dict)
    after: State = field(default_factory=dict)

    def document(self) -> str:
        """The entry as canonical JSON (all names are ASCII, see ``domain.receipts.encode``)."""
        content = {
            "v": DOCUMENT_VERSION,
            "entry_id": self.entry_id,
            "org_id": self.org_id,
            "created_at_ms": self.created_at_ms,
            "actor": {
                "kind": self.actor.kind.value,
                "id": self.actor.id,
                "address": self.actor.address,
                "trace_id": self.actor.trace_id,
            },
            "action": self.action,
            "subject": self.subject,
            "before": dict(self.before),
            "after": dict(self.after),
        }
        return orjson.dumps(content, option=orjson.OPT_SORT_KEYS).decode()
