"""Secrets that must be read again, as they are stored."""

from __future__ import annotations

import pytest

from ledger_svc.domain.lockbox import CannotOpenError, Lockbox


def test_a_sealed_secret_opens_in_its_place_only_and_under_its_key() -> None:
    old = {"2026-10": b"a" * 32}
    sealed = Lockbox(old, "tests", lambda n: b"n" * n).seal("whk_1", b"secret")
    both = Lockbox(old | {"2026-11": b"b" * 32}, "tests", lambda n: b"m" * n)
    assert both.open("whk_1", sealed) == b"secret"
    assert both.seal("whk_1", b"secret").startswith("2026-11:")
    for box, place, text in (
        (both, "whk_2", sealed),
        (both, "whk_1", sealed[:-2] + "AA"),
        (both, "whk_1", "2026-10:AAAA"),
        (both, "whk_1", ""),
        (Lockbox({"2026-11": b"b" * 32}, "tests", lambda n: b"n" * n), "whk_1", sealed),
        (Lockbox(old, "other", lambda n: b"n" * n), "whk_1", sealed),
    ):
        with pytest.raises(CannotOpenError):
            box.open(place, text)
