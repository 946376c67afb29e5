"""Salted digests: a receipt names a text without giving it away.

``SALT:DIGEST``, where SALT is 16 random bytes and DIGEST is SHA-256(SALT || text), both in lower-case hex. Whoever has
the receipt and the text can compare them. Whoever has receipts only can't tell whether two name the same text.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable

from meshkit.randomness import Supply

SALT_BYTES = 16
NewSalt = Callable[[], bytes]
"""Gives 16 bytes that nobody can guess, others each time."""


_SALTS = Supply(SALT_BYTES)
_FORM = re.compile(r"([0-9a-f]{32}):([0-9a-f]{64})")


def new_salt() -> bytes:
    """The ``NewSalt`` of every process."""
    return _SALTS.take()


def salted(text: bytes, salt: bytes) -> str:
    """The digest of ``text`` under ``salt``."""
    assert len(salt) == SALT_BYTES
    digest = hashlib.sha256(salt)
    digest.update(text)
    return f"{salt.hex()}:{digest.hexdigest()}"


def is_of(digest: str, text: bytes) -> bool:
    """Whether ``digest`` was taken of ``text``.

    Raises:
        ValueError: not a salted digest.
    """
    match = _FORM.fullmatch(digest)
    if match is None:
        raise ValueError("not a salted digest")
    return hmac.compare_digest(salted(text, bytes.fromhex(match[1])), digest)
