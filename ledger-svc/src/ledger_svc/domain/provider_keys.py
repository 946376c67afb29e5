"""Provider keys: an organisation's own keys at sources, with which its requests are sent there."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ledger_svc.domain.errors import InvalidRequest
from ledger_svc.domain.trail import State
from meshkit.secret import Secret

MIN_SECRET_CHARS = 8
MAX_SECRET_CHARS = 512
_SECRET = re.compile(rf"[\x21-\x7e]{{{MIN_SECRET_CHARS},{MAX_SECRET_CHARS}}}")
_HINT_CHARS = 4
_LONG_ENOUGH_FOR_A_HINT = 16
"""Of a shorter secret, four characters would be too much of it."""


@dataclass(frozen=True, slots=True)
class ProviderKey:
    """What is known of a provider key, without its secret. Times in Unix milliseconds, 0 for never. ``fallback``: where
    the source fails, other sources may answer with the operator's key.
    """

    provider_key_id: str
    org_id: str
    source_id: str
    name: str
    hint: str
    fallback: bool
    created_at_ms: int
    rotated_at_ms: int = 0
    revoked_at_ms: int = 0

    def shown(self) -> State:
        """What the audit trail says of it."""
        return {"source": self.source_id, "name": self.name, "hint": self.hint, "fallback": self.fallback}


@dataclass(frozen=True, slots=True)
class ProviderSecret:
    """A provider key that is in force, with its secret."""

    provider_key_id: str
    source_id: str
    secret: Secret
    fallback: bool


def check_secret(text: str) -> Secret:
    """A key as sources give them out: it goes into a header as it is.

    Raises:
        InvalidRequest: the message does not say what was sent.
    """
    if not _SECRET.fullmatch(text):
        raise InvalidRequest(
            "secret",
            f"must have {MIN_SECRET_CHARS} to {MAX_SECRET_CHARS} printable ASCII characters and no spaces: the key as "
            "the source gave it, without `Bearer`",
        )
    return Secret(text)


def hint_of(secret: Secret) -> str:
    """What is shown of a secret."""
    text = secret.reveal()
    return "..." + (text[-_HINT_CHARS:] if len(text) >= _LONG_ENOUGH_FOR_A_HINT else "")
