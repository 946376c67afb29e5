"""Envelope encryption of secrets that must be read again.

Each organisation has a data key; its secrets are sealed under that, and the data key is wrapped under a key-encryption
key of the settings. So a key-encryption key is replaced by wrapping data keys anew, and no secret is touched.

Both are AES-256-GCM (NIST SP 800-38D) with a random 96 bit nonce, written as ``v1:NAME:BASE64URL`` of nonce, ciphertext
and tag; NAME says which key opens it. What a ciphertext belongs to is authenticated with it: one that is moved to
another row, or whose NAME is changed, does not open.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ledger_svc.domain.errors import InvalidRequest
from meshkit.secret import Secret

VERSION: Final = "v1"
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16

RandomBytes = Callable[[int], bytes]
"""So many bytes, cryptographically strong."""


class SealBroken(Exception):
    """A stored ciphertext does not open: it was changed or moved, or its key is not the one that it was made with."""


class KeyMissing(SealBroken):
    """The settings lack the key-encryption key of a data key."""


class NoSealingKey(InvalidRequest):
    """The settings have no key-encryption key at all."""

    def __init__(self) -> None:
        super().__init__(
            "secret",
            "this installation can't keep secrets: its operator has set no key to encrypt them with "
            "(TALLYGATE_LEDGER_SECRETS_KEYS)",
        )


@dataclass(frozen=True, slots=True)
class DataKey:
    """What the secrets of one organisation are sealed under. ``data_key_id``: "dk_..."."""

    data_key_id: str
    org_id: str
    key: bytes = field(repr=False)


class Envelope:
    """Seals and opens. ``keys``: the key-encryption keys by kid, 32 bytes each; the greatest kid in the order of text
    wraps, all unwrap.

    Raises:
        ValueError: a key has another length, or a kid is empty.
    """

    def __init__(self, keys: Mapping[str, bytes], random_bytes: RandomBytes) -> None:
        if any(not kid or len(key) != KEY_BYTES for kid, key in keys.items()):
            raise ValueError(f"a key-encryption key has a kid, and {KEY_BYTES} bytes")
        self._keys = {kid: AESGCM(key) for kid, key in keys.items()}
        self._random_bytes = random_bytes

    @property
    def kids(self) -> frozenset[str]:
        """The key-encryption keys that there are."""
        return frozenset(self._keys)

    @property
    def current_kid(self) -> str:
        """The one that wraps; "" where there is none."""
        return max(self._keys, default="")

    def new_data_key(self, data_key_id: str, org_id: str) -> DataKey:
        """A fresh data key."""
        return DataKey(data_key_id, org_id, self._random_bytes(KEY_BYTES))

    def wrap(self, data_key: DataKey) -> str:
        """The data key as it is stored.

        Raises:
            NoSealingKey: the settings have no key-encryption key.
        """
        kid = self.current_kid
        if not kid:
            raise NoSealingKey
        return self._sealed(
            self._keys[kid], kid, data_key.key, _of_data_key(data_key.data_key_id, data_key.org_id, kid)
        )

    def unwrap(self, wrapped: str, *, data_key_id: str, org_id: str) -> DataKey:
        """The data key that ``wrap`` stored.

        Raises:
            KeyMissing, SealBroken.
        """
        kid, sealed = _taken_apart(wrapped)
        cipher = self._keys.get(kid)
        if cipher is None:
            raise KeyMissing(f"the data key {data_key_id} of {org_id} is under the key {kid!r}, which is not set")
        key = _opened(cipher, sealed, _of_data_key(data_key_id, org_id, kid), f"the data key {data_key_id} of {org_id}")
        if len(key) != KEY_BYTES:
            raise SealBroken(f"the data key {data_key_id} of {org_id} has {len(key)} bytes")
        return DataKey(data_key_id, org_id, key)

    def seal(self, data_key: DataKey, secret: Secret, *belongs_to: str) -> str:
        """A secret as it is stored. ``belongs_to``: what names the row that it stands in."""
        name = data_key.data_key_id
        return self._sealed(
            AESGCM(data_key.key), name, secret.reveal().encode(), _of_secret(name, data_key.org_id, belongs_to)
        )

    def open(self, data_key: DataKey, sealed: str, *belongs_to: str) -> Secret:
        """The secret that ``seal`` stored.

        Raises:
            SealBroken.
        """
        name, content = _taken_apart(sealed)
        what = f"the secret of {'/'.join(belongs_to)} of {data_key.org_id}"
        if name != data_key.data_key_id:
            raise SealBroken(f"{what} is under the data key {name!r}, not {data_key.data_key_id!r}")
        plain = _opened(AESGCM(data_key.key), content, _of_secret(name, data_key.org_id, belongs_to), what)
        return Secret(plain.decode())

    def _sealed(self, cipher: AESGCM, name: str, plain: bytes, belonging: bytes) -> str:
        nonce = self._random_bytes(NONCE_BYTES)
        content = nonce + cipher.encrypt(nonce, plain, belonging)
        return f"{VERSION}:{name}:{_to_base64url(content)}"


def name_of(stored: str) -> str:
    """Which key opens a stored text: a kid, or the id of a data key.

    Raises:
        SealBroken: it has not the form of one.
    """
    return _taken_apart(stored)[0]


def _of_data_key(data_key_id: str, org_id: str, kid: str) -> bytes:
    return _joined("data-key", org_id, data_key_id, kid)


def _of_secret(data_key_id: str, org_id: str, belongs_to: tuple[str, ...]) -> bytes:
    return _joined("secret", org_id, data_key_id, *belongs_to)


def _joined(*parts: str) -> bytes:
    """As JSON, so that no two lists of parts give the same bytes."""
    return json.dumps(["tallygate", VERSION, *parts]).encode()


def _taken_apart(stored: str) -> tuple[str, bytes]:
    version, _, rest = stored.partition(":")
    name, _, content = rest.rpartition(":")
    if version != VERSION or not name:
        raise SealBroken("a stored secret has not the form of one")
    return name, _from_base64url(content)


def _opened(cipher: AESGCM, content: bytes, belonging: bytes, what: str) -> bytes:
    if len(content) < NONCE_BYTES + TAG_BYTES:
        raise SealBroken(f"{what} is cut off")
    try:
        return cipher.decrypt(content[:NONCE_BYTES], content[NONCE_BYTES:], belonging)
    except InvalidTag:
        raise SealBroken(f"{what} does not open: it was changed or moved, or another key made it") from None


def _to_base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _from_base64url(text: str) -> bytes:
    """Only the text that ``_to_base64url`` gives: where bits are left over, several texts decode to the same bytes."""
    try:
        content = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise SealBroken("a stored secret is not base64url") from None
    if _to_base64url(content) != text:
        raise SealBroken("a stored secret is not base64url as it was written")
    return content
