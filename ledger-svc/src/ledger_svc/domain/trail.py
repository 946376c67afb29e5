"""The audit trail: who changed what of an account, when and from where, and what it was before and after.

An entry is written in the transaction of its change. Its document is RFC 8785 canonical JSON, as a receipt's is; signed
it is a leaf of the same log.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from meshkit.ids import id_of
from meshkit.principal import Actor, ActorKind

DOCUMENT_VERSION = 1
_FIELDS = ("entry_id", "org_id", "created_at_ms", "action", "subject", "before", "after")
_ACTOR_TEXTS = ("id", "address", "trace_id")

SYSTEM = Actor(ActorKind.SYSTEM)
"""Tallygate itself: what it does by the clock."""

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
        actor = {name: getattr(self.actor, name) for name in _ACTOR_TEXTS}
        content = {name: getattr(self, name) for name in _FIELDS}
        content |= {"v": DOCUMENT_VERSION, "actor": {"kind": self.actor.kind.value, **actor}}
        content |= {"before": dict(self.before), "after": dict(self.after)}
        return orjson.dumps(content, option=orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER).decode()


def decode(text: str) -> TrailEntry:
    """The entry of a document that ``TrailEntry.document`` wrote.

    Raises:
        ValueError: another version, or not such a document.
    """
    document = orjson.loads(text)
    if document["v"] != DOCUMENT_VERSION:
        raise ValueError(f"audit document version {document['v']} is not known")
    said = document["actor"]
    actor = Actor(ActorKind(said["kind"]), **{name: said[name] for name in _ACTOR_TEXTS})
    return TrailEntry(**{name: document[name] for name in _FIELDS}, actor=actor)


def told(
    actor: Actor,
    org_id: str,
    now_ms: int,
    action: str,
    subject: str,
    *by: str,
    before: State | None = None,
    after: State | None = None,
) -> TrailEntry:
    """The entry of a change that a command decides. Its id is made of what names the change, ``by``: decided again, the
    change is told under the same id.
    """
    entry_id = id_of("aud", action, *by)
    return TrailEntry(entry_id, org_id, now_ms, actor, action, subject, before=before or {}, after=after or {})
