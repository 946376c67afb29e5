"""Webhook endpoints, and what is told to them: Standard Webhooks (https://www.standardwebhooks.com)."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from ledger_svc.domain.destinations import url_state
from ledger_svc.domain.errors import InvalidRequest
from ledger_svc.domain.trail import State

CAP_THRESHOLD_REACHED = "cap.threshold_reached"
WEBHOOK_TEST = "webhook.test"
KEY_CREATED, KEY_UPDATED, KEY_ROTATED, KEY_REVOKED = "key.created", "key.updated", "key.rotated", "key.revoked"
KEY_CHANGES = (KEY_CREATED, KEY_UPDATED, KEY_ROTATED, KEY_REVOKED)
"""As the audit trail names them."""
EVENT_TYPES = (CAP_THRESHOLD_REACHED, *KEY_CHANGES, WEBHOOK_TEST)
EVERY_TYPE = "*"
MAX_ENDPOINTS = 20
"""Of an organisation, beside those of its keys."""
MAX_OVERLAP_S = 30 * 24 * 3_600
SECRET_PREFIX = "whsec_"  # noqa: S105 - the public prefix of every secret
SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Secrets:
    """What an endpoint's messages are signed with, as stored (see ``domain.lockbox``). ``previous`` signs, too, until
    ``previous_until_ms``.
    """

    current: str
    previous: str = ""
    previous_until_ms: int = 0

    def at(self, now_ms: int) -> tuple[str, ...]:
        """Those that sign at a moment, the newest first."""
        if self.previous and now_ms < self.previous_until_ms:
            return self.current, self.previous
        return (self.current,)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where events of an organisation are sent. Times in Unix milliseconds, 0: never.

    ``key_id``: told only of this key; "": of all. ``disabled_reason``: why it is off; "" while it is on.
    ``failing_since_ms``: since when every attempt failed. ``previous_until_ms``: until when the secret before the last
    rotation signs, too.
    """

    endpoint_id: str
    org_id: str
    key_id: str
    url: str
    event_types: tuple[str, ...]
    description: str
    disabled_reason: str
    created_at_ms: int
    failing_since_ms: int = 0
    previous_until_ms: int = 0

    @property
    def enabled(self) -> bool:
        """Whether anything is sent there."""
        return not self.disabled_reason

    def wants(self, event: Event) -> bool:
        """Whether an event of its organisation is sent there."""
        of_type = EVERY_TYPE in self.event_types or event.event_type in self.event_types
        return self.enabled and of_type and self.key_id in {"", event.key_id}

    def shown(self) -> State:
        """What the audit trail says of it."""
        return {
            **url_state(self.url),
            "key_id": self.key_id,
            "event_types": list(self.event_types),
            "description": self.description,
            "enabled": self.enabled,
            "disabled_reason": self.disabled_reason,
        }


DISABLED_BY_OWNER = "disabled by its owner"
DISABLED_GONE = "it answered 410 Gone"
DISABLED_FAILING = "every attempt has failed for too long"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that is told. ``key_id``: the key that it is about; "": none. ``body``: as it is sent."""

    event_id: str
    org_id: str
    key_id: str
    event_type: str
    created_at_ms: int
    body: str


def event(
    event_id: str, org_id: str, event_type: str, created_at_ms: int, data: Mapping[str, Any], *, key_id: str = ""
) -> Event:
    """An event with its body: ``type``, ``timestamp`` in ISO 8601, ``data``."""
    content = {"type": event_type, "timestamp": iso_8601(created_at_ms), "data": dict(data)}
    return Event(event_id, org_id, key_id, event_type, created_at_ms, orjson.dumps(content).decode())


def iso_8601(at_ms: int) -> str:
    """In UTC, with milliseconds."""
    moment = dt.datetime.fromtimestamp(at_ms // 1_000, dt.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{at_ms % 1_000:03d}Z"


def check_event_types(event_types: Sequence[str]) -> tuple[str, ...]:
    """Refuses an empty list, and a type that is never told; each once, in order.

    Raises:
        InvalidRequest.
    """
    if not event_types:
        raise InvalidRequest("events", f'must not be empty; "{EVERY_TYPE}" is every type')
    for event_type in event_types:
        if event_type not in {*EVENT_TYPES, EVERY_TYPE}:
            known = ", ".join((*EVENT_TYPES, EVERY_TYPE))
            raise InvalidRequest("events", f"{event_type[:50]!r} is not one of {known}")
    return tuple(dict.fromkeys(event_types))


def shown_secret(secret: bytes) -> str:
    """As it is given to the endpoint's owner."""
    return SECRET_PREFIX + base64.b64encode(secret).decode()


def signature_headers(secrets: Sequence[bytes], event_id: str, sent_at_ms: int, body: bytes) -> dict[str, str]:
    """The headers by which a receiver knows that a message is ours, and not an old one sent again."""
    timestamp = sent_at_ms // 1_000
    signed = f"{event_id}.{timestamp}.".encode() + body
    signatures = [
        "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode() for secret in secrets
    ]
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }
