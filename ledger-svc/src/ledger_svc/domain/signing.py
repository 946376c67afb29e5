"""Ed25519 keys, and what they sign: receipts and entries of the audit trail as compact JWS (RFC 7515, RFC 8037),
checkpoints as signed notes.

The same key may sign both: what is signed for a JWS has no newline, and a note always has one, so neither can be taken
for the other.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Any

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ledger_svc.domain.merkle import leaf_hash
from ledger_svc.domain.values import value

ALGORITHM = "EdDSA"
KEY_BYTES = 32
SIGNATURE_BYTES = 64


class JwsKind(StrEnum):
    """What a JWS is of: the ``typ`` of its header, so that none is taken for one of another kind."""

    RECEIPT = "tallygate-receipt+jws"
    AUDIT_ENTRY = "tallygate-audit+jws"


_NAMES = {JwsKind.RECEIPT: "a receipt", JwsKind.AUDIT_ENTRY: "an audit entry"}

PublicKeys = Mapping[str, Ed25519PublicKey]
"""By kid."""


class InvalidSignatureError(Exception):
    """It is not what one of the known keys has signed, or not in the form that it is signed in."""


@value(frozen=True, slots=True)
class Seal:
    """A document's signature, and the hash of its leaf: SHA-256(0x00 || JWS)."""

    kid: str
    signature: bytes
    leaf_hash: bytes


class Keyring:
    """The keys of a log by kid: those that can sign, of which one does, and those that only verify.

    ``signing_kid`` "": the greatest of the private ones in the order of text, so that kids that begin with a date
    rotate by themselves.

    Raises:
        ValueError: there is no private key, none of that kid, or a kid is both private and retired.
    """

    def __init__(
        self,
        private: Mapping[str, Ed25519PrivateKey],
        retired: PublicKeys | None = None,
        *,
        signing_kid: str = "",
    ) -> None:
        if not private:
            raise ValueError("at least one signing key is needed")
        if both := private.keys() & (retired or {}).keys():
            raise ValueError(f"a key is either signing or retired: {', '.join(sorted(both))}")
        self.signing_kid = signing_kid or max(private)
        if self.signing_kid not in private:
            raise ValueError(f"there is no signing key {self.signing_kid}")
        self._signer = private[self.signing_kid]
        self.public: PublicKeys = {kid: key.public_key() for kid, key in private.items()} | dict(retired or {})

    def seal(self, document: bytes, kind: JwsKind = JwsKind.RECEIPT) -> Seal:
        """Signs a document."""
        signed = signing_input(self.signing_kid, document, kind)
        signature = self.sign(signed)
        return Seal(self.signing_kid, signature, leaf_hash(_jws(signed, signature)))

    def sign(self, message: bytes) -> bytes:
        """The signature of the signing key; the same message always gives the same."""
        return self._signer.sign(message)


def load_private_key(text: str) -> Ed25519PrivateKey:
    """A private key from PEM (PKCS #8, not encrypted) or from its 32 byte seed in base64url (as "d" of a JWK).

    Raises:
        ValueError: neither.
    """
    if text.lstrip().startswith("-----BEGIN"):
        key = load_pem_private_key(text.encode(), password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError("the key is not an Ed25519 key")
        return key
    return Ed25519PrivateKey.from_private_bytes(_key_bytes(text))


def load_public_key(text: str) -> Ed25519PublicKey:
    """A public key from its 32 bytes in base64url (as "x" of a JWK).

    Raises:
        ValueError: not such a text.
    """
    return Ed25519PublicKey.from_public_bytes(_key_bytes(text))


def jwk(kid: str, key: Ed25519PublicKey) -> dict[str, str]:
    """A public key as a JWK (RFC 8037, 2)."""
    x = base64url(key.public_bytes_raw())
    return {"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x, "alg": ALGORITHM, "use": "sig"}


def public_key_from_jwk(document: Mapping[str, Any]) -> tuple[str, Ed25519PublicKey]:
    """kid and key of a JWK that ``jwk`` could have written.

    Raises:
        ValueError: another kind of key, or one without a kid.
    """
    kid = document.get("kid")
    if not isinstance(kid, str) or not kid or not isinstance(document.get("x"), str):
        raise ValueError("a key needs kid and x")
    key = load_public_key(document["x"])
    if dict(document) != jwk(kid, key):
        raise ValueError(f"key {kid} is not an Ed25519 key for signatures in the form of RFC 8037")
    return kid, key


@lru_cache(maxsize=64)
def _protected(kid: str, kind: JwsKind) -> bytes:
    return base64url(rfc8785.dumps({"alg": ALGORITHM, "kid": kid, "typ": kind.value})).encode()


def signing_input(kid: str, document: bytes, kind: JwsKind = JwsKind.RECEIPT) -> bytes:
    """What is signed (RFC 7515, 5.1). The header has three members, in canonical JSON: there is one JWS of a document,
    kind, key and signature.
    """
    return _protected(kid, kind) + b"." + _base64url(document)


def compact(kid: str, document: bytes, signature: bytes, kind: JwsKind = JwsKind.RECEIPT) -> bytes:
    """The JWS in compact form."""
    return _jws(signing_input(kid, document, kind), signature)


def _jws(signed: bytes, signature: bytes) -> bytes:
    return signed + b"." + _base64url(signature)


def split_jws(jws: str, kind: JwsKind = JwsKind.RECEIPT) -> tuple[str, bytes, bytes]:
    """(kid, document, signature) of a compact JWS, not verified.

    Raises:
        InvalidSignatureError: not exactly in the form that ``compact`` writes.
    """
    try:
        header, payload, signature = (from_base64url(part) for part in jws.split("."))
        kid = json.loads(header)["kid"]
        exact = compact(kid, payload, signature, kind) == jws.encode()
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InvalidSignatureError(f"not a compact JWS of {_NAMES[kind]}") from error
    if not exact:
        raise InvalidSignatureError(f"the header is not that of {_NAMES[kind]} signed with {ALGORITHM}")
    return kid, payload, signature


def verify_jws(jws: str, keys: PublicKeys, kind: JwsKind = JwsKind.RECEIPT) -> tuple[str, bytes]:
    """(kid, document) of a JWS that one of the keys has signed.

    Raises:
        InvalidSignatureError: not of this kind, not signed by the key that it names, or that key is not known.
    """
    kid, document, signature = split_jws(jws, kind)
    if kid not in keys:
        raise InvalidSignatureError(f"signed with {kid}, which is none of the known keys")
    verify(keys[kid], signature, signing_input(kid, document, kind))
    return kid, document


def verify(key: Ed25519PublicKey, signature: bytes, message: bytes) -> None:
    """Raises:
    InvalidSignatureError: the key has not signed this.
    """
    try:
        key.verify(signature, message)
    except InvalidSignature:
        raise InvalidSignatureError("the signature does not fit") from None


def base64url(data: bytes) -> str:
    """Without padding (RFC 7515, 2)."""
    return _base64url(data).decode()


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def from_base64url(text: str) -> bytes:
    """Raises:
    ValueError: not what ``base64url`` writes, down to the unused bits of the last character.
    """
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64url: {error}") from error
    if base64url(data) != text:
        raise ValueError("not base64url in its one form")
    return data


def _key_bytes(text: str) -> bytes:
    data = from_base64url(text.strip())
    if len(data) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes, this one has {len(data)}")
    return data
