"""Which public keys a verifier believes: those it was given, or those it met first.

A proof brings its keys along, which proves nothing by itself: whoever forges a receipt brings the keys that fit. So the
keys must be known from elsewhere, or be the same as the first time.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ledger_svc.domain.signing import PublicKeys, base64url, load_public_key, public_key_from_jwk
from tallygate_deploy.data_dir import write_private

DEFAULT_TRUST_FILE = Path("~/.tallygate/known-logs.json")


class Trust(Protocol):
    """A source of trust."""

    def keys_for(self, bundled: PublicKeys, origin: str) -> tuple[PublicKeys, str]:
        """The keys to verify with, and in words where they come from.

        Raises:
            ValueError: the proof brings a key that is not believed.
        """

    def remember(self) -> str:
        """Called once all checks have passed; says what was kept, "" for nothing."""


@dataclass(frozen=True, slots=True)
class Pinned:
    """Keys that the caller has from elsewhere."""

    keys: PublicKeys
    source: str

    def keys_for(self, bundled: PublicKeys, origin: str) -> tuple[PublicKeys, str]:  # noqa: ARG002
        """See ``Trust``."""
        _check_known(bundled, self.keys, self.source)
        return self.keys, f"pinned by {self.source}: {', '.join(sorted(self.keys))}"

    def remember(self) -> str:
        """See ``Trust``."""
        return ""


@dataclass(slots=True)
class FirstUse:
    """The keys that a log had when it was met first, kept in a file by the log's origin."""

    path: Path
    _new: dict[str, dict[str, str]] = field(default_factory=dict)

    def keys_for(self, bundled: PublicKeys, origin: str) -> tuple[PublicKeys, str]:
        """See ``Trust``."""
        known = self._known()
        if origin not in known:
            self._new = known | {origin: {kid: base64url(key.public_bytes_raw()) for kid, key in bundled.items()}}
            return bundled, f"not known before: those in the file are believed, as {origin} is met for the first time"
        keys = {kid: load_public_key(x) for kid, x in known[origin].items()}
        _check_known(bundled, keys, str(self.path))
        return keys, f"those that {origin} had when it was met first ({self.path})"

    def remember(self) -> str:
        """See ``Trust``."""
        if not self._new:
            return ""
        write_private(self.path, json.dumps(self._new, indent=2, ensure_ascii=False))
        return f"the keys are kept in {self.path}, and no others are believed from now on"

    def _known(self) -> dict[str, dict[str, str]]:
        if not self.path.exists():
            return {}
        known: dict[str, dict[str, str]] = json.loads(self.path.read_text(encoding="utf-8"))
        return known


def pinned_by_jwks(path: Path) -> Pinned:
    """Raises:
    ValueError: not a set of public Ed25519 keys.
    """
    return pinned_by_document(json.loads(path.read_text(encoding="utf-8")), str(path))


def pinned_by_document(document: Any, source: str) -> Pinned:
    """The keys of a JWKS; ``source`` names it.

    Raises:
        ValueError: not a set of public Ed25519 keys.
    """
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list) or not document["keys"]:
        raise ValueError(f"{source} is not a JWKS with at least one key")
    return Pinned(dict(public_key_from_jwk(jwk) for jwk in document["keys"]), source)


def pinned_by_text(keys: list[str]) -> Pinned:
    """Keys given as KID=X.

    Raises:
        ValueError: not in this form.
    """
    found: dict[str, Ed25519PublicKey] = {}
    for text in keys:
        kid, equals, x = text.rpartition("=")
        if not equals or not kid:
            raise ValueError(f"{text!r} is not KID=X, with X as in the JWKS")
        found[kid] = load_public_key(x)
    return Pinned(found, "--key")


def _check_known(bundled: PublicKeys, known: PublicKeys, source: str) -> None:
    for kid, key in bundled.items():
        if kid not in known:
            raise ValueError(f"key {kid} is not among those of {source}: if it is new, get the JWKS again")
        if known[kid].public_bytes_raw() != key.public_bytes_raw():
            raise ValueError(f"key {kid} is another one than in {source}")
