"""A signed state of the log: https://c2sp.org/tlog-checkpoint in a https://c2sp.org/signed-note.

example.com/tallygate          the origin: names the log, and in the last line the key
20852163                       the size
CsUYapGGPo4dkMgI...            the root, base64

— example.com/tallygate Az3grlgt...    em dash, name, base64(4 byte key id || signature of the lines above)
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import unicodedata
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ledger_svc.domain.merkle import HASH_BYTES, Frontier
from ledger_svc.domain.signing import InvalidSignatureError, Keyring, PublicKeys, verify

MAX_NOTE_CHARS = 10_000
_ED25519 = b"\x01"
_KEY_ID_BYTES = 4


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The log at a size. ``note`` is what was signed and its signature; ``frontier`` is where the log grows on."""

    frontier: Frontier
    root_hash: bytes
    note: str
    created_at_ms: int

    @property
    def size(self) -> int:
        """The number of leaves."""
        return self.frontier.size


@dataclass(frozen=True, slots=True)
class Statement:
    """What the text of a checkpoint says."""

    origin: str
    size: int
    root_hash: bytes

    @property
    def text(self) -> str:
        """What is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root_hash).decode()}\n"


def check_origin(origin: str) -> str:
    """Raises:
    ValueError: it can't name a key in a signed note.
    """
    if (
        not origin
        or len(origin) > 200
        or any(c.isspace() or c == "+" or unicodedata.category(c)[0] == "C" for c in origin)
    ):
        raise ValueError("an origin has 1 to 200 characters, and neither spaces nor a plus")
    return origin


def sign_checkpoint(origin: str, frontier: Frontier, keys: Keyring, now_ms: int) -> Checkpoint:
    """Signs a state of the log."""
    root_hash = frontier.root
    text = Statement(origin, frontier.size, root_hash).text
    signature = key_id(origin, keys.public[keys.signing_kid]) + keys.sign(text.encode())
    note = f"{text}\n— {origin} {base64.b64encode(signature).decode()}\n"
    return Checkpoint(frontier, root_hash, note, now_ms)


def key_id(name: str, key: Ed25519PublicKey) -> bytes:
    """Four bytes that tell the keys of one name apart."""
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + key.public_bytes_raw()).digest()[:_KEY_ID_BYTES]


def parse_checkpoint(note: str) -> Statement:
    """What a checkpoint says; its signature is not looked at.

    Raises:
        InvalidSignatureError: not a signed note with a checkpoint of three lines.
    """
    return _split(note)[0]


def verify_checkpoint(note: str, keys: PublicKeys) -> tuple[str, Statement]:
    """(kid, what it says) of a checkpoint that one of the keys has signed in the log's name. Signatures of keys that
    are not known (of witnesses) are passed over, as the format has it.

    Raises:
        InvalidSignatureError: no known key has signed it, or it is not a checkpoint.
    """
    statement, signatures = _split(note)
    found = ""
    for kid, key in keys.items():
        hint = key_id(statement.origin, key)
        for name, signature in signatures:
            if name == statement.origin and signature[:_KEY_ID_BYTES] == hint:
                verify(key, signature[_KEY_ID_BYTES:], statement.text.encode())
                found = found or kid
    if not found:
        raise InvalidSignatureError("none of the known keys has signed the checkpoint")
    return found, statement


def _split(note: str) -> tuple[Statement, list[tuple[str, bytes]]]:
    text, blank, signed = note.rpartition("\n\n")
    lines = text.split("\n")
    if len(note) > MAX_NOTE_CHARS or not blank or len(lines) != 3 or not signed.endswith("\n"):
        raise InvalidSignatureError("not a signed note with the three lines of a checkpoint")
    origin, size, root = lines
    try:
        statement = Statement(check_origin(origin), int(size), base64.b64decode(root, validate=True))
        signatures = [_signature(line) for line in signed.removesuffix("\n").split("\n")]
    except (ValueError, binascii.Error) as error:
        raise InvalidSignatureError(f"not a checkpoint: {error}") from error
    if statement.text != text + "\n" or statement.size < 0 or len(statement.root_hash) != HASH_BYTES:
        raise InvalidSignatureError("a checkpoint has a size without leading zeros and a root of 32 bytes")
    return statement, signatures


def _signature(line: str) -> tuple[str, bytes]:
    dash, name, encoded = line.split(" ")
    signature = base64.b64decode(encoded, validate=True)
    if dash != "—" or not name or base64.b64encode(signature).decode() != encoded:
        raise ValueError("not a signature line")
    if len(signature) <= _KEY_ID_BYTES:
        raise ValueError("a signature is too short")
    return name, signature
