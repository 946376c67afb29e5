"""Secrets that must be read again, as they are stored: encrypted with AES-256-GCM under a key from the settings.

A sealed text is ``KID:`` and base64url of nonce and ciphertext. It names its key, so keys can be rotated, and it is
bound to what it is the secret of: in another row it does not open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ledger_svc.domain.errors import NotConfigured
from ledger_svc.domain.signing import base64url, from_base64url

_NONCE_BYTES = 12
_KEY_BYTES = 32


class CannotOpenError(Exception):
    """The key is gone, or the text is not what was sealed for this place."""


class Lockbox:
    """Seals and opens.

    ``keys``: 32 bytes by kid; the greatest kid in the order of text seals, all open. ``purpose``: apart from other uses
    of the same keys. ``random_bytes(n)``: cryptographically strong.
    """

    def __init__(self, keys: Mapping[str, bytes], purpose: str, random_bytes: Callable[[int], bytes]) -> None:
        self._random_bytes = random_bytes
        self._ciphers = {kid: AESGCM(_derived(key, purpose)) for kid, key in keys.items()}

    def check_can_seal(self) -> None:
        """Raises:
        NotConfigured: there is no key.
        """
        if not self._ciphers:
            raise NotConfigured(
                "this installation has no key to store secrets under: the operator has to set "
                "TALLYGATE_LEDGER_SECRETS_KEYS"
            )

    def seal(self, place: str, secret: bytes) -> str:
        """The text to store. ``place``: what it is the secret of.

        Raises:
            NotConfigured: there is no key.
        """
        self.check_can_seal()
        kid = max(self._ciphers)
        nonce = self._random_bytes(_NONCE_BYTES)
        return f"{kid}:{base64url(nonce + self._ciphers[kid].encrypt(nonce, secret, place.encode()))}"

    def open(self, place: str, sealed: str) -> bytes:
        """What was sealed.

        Raises:
            CannotOpenError.
        """
        kid, _, text = sealed.rpartition(":")
        if kid not in self._ciphers:
            raise CannotOpenError(f"sealed under {kid}, which is none of the keys")
        try:
            data = from_base64url(text)
            return self._ciphers[kid].decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], place.encode())
        except (ValueError, InvalidTag):
            raise CannotOpenError("not what was sealed for this place") from None


def _derived(key: bytes, purpose: str) -> bytes:
    return HKDF(SHA256(), _KEY_BYTES, salt=None, info=f"tallygate {purpose}".encode()).derive(key)
