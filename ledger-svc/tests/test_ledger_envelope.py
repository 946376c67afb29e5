"""Secrets at rest: what was changed, moved or sealed under another key does not open."""

from __future__ import annotations

import secrets

import pytest

from ledger_svc.domain.envelope import NONCE_BYTES, DataKey, Envelope, KeyMissing, NoSealingKey, SealBroken, name_of
from meshkit.secret import Secret

SECRET = Secret("sk-the-secret-of-acme")
OLD, NEW = {"2026-10": b"o" * 32}, {"2026-11": b"n" * 32}


@pytest.fixture
def envelope() -> Envelope:
    return Envelope(OLD | NEW, secrets.token_bytes)


@pytest.fixture
def data_key(envelope: Envelope) -> DataKey:
    return envelope.new_data_key("dk_1", "org_a")


def test_what_was_sealed_opens(envelope: Envelope, data_key: DataKey) -> None:
    wrapped = envelope.wrap(data_key)
    assert name_of(wrapped) == "2026-11"
    assert envelope.unwrap(wrapped, data_key_id="dk_1", org_id="org_a") == data_key
    sealed = envelope.seal(data_key, SECRET, "openai", "pk_1")
    assert "sk-" not in sealed
    assert envelope.open(data_key, sealed, "openai", "pk_1") == SECRET


def test_every_changed_character_is_noticed(envelope: Envelope, data_key: DataKey) -> None:
    wrapped, sealed = envelope.wrap(data_key), envelope.seal(data_key, SECRET, "openai", "pk_1")
    for text, opened in (
        (wrapped, lambda changed: envelope.unwrap(changed, data_key_id="dk_1", org_id="org_a")),
        (sealed, lambda changed: envelope.open(data_key, changed, "openai", "pk_1")),
    ):
        for place in range(len(text)):
            for bit in range(7):
                changed = text[:place] + chr(ord(text[place]) ^ 1 << bit) + text[place + 1 :]
                with pytest.raises(SealBroken):
                    opened(changed)
            with pytest.raises(SealBroken):
                opened(text[:place])


def test_what_is_moved_to_another_row_does_not_open(envelope: Envelope, data_key: DataKey) -> None:
    sealed = envelope.seal(data_key, SECRET, "openai", "pk_1")
    for belongs_to in (("openai", "pk_2"), ("groq", "pk_1"), ("openaip", "k_1"), ("openai",)):
        with pytest.raises(SealBroken, match="changed or moved"):
            envelope.open(data_key, sealed, *belongs_to)
    for other in (DataKey("dk_1", "org_b", data_key.key), DataKey("dk_2", "org_a", data_key.key)):
        with pytest.raises(SealBroken):
            envelope.open(other, sealed, "openai", "pk_1")
    wrapped = envelope.wrap(data_key)
    for data_key_id, org_id in (("dk_1", "org_b"), ("dk_2", "org_a")):
        with pytest.raises(SealBroken, match="changed or moved"):
            envelope.unwrap(wrapped, data_key_id=data_key_id, org_id=org_id)


def test_a_kid_is_part_of_what_is_authenticated(data_key: DataKey) -> None:
    both = Envelope({"2026-10": b"n" * 32, "2026-11": b"n" * 32}, secrets.token_bytes)  # the same key under two names
    with pytest.raises(SealBroken, match="changed or moved"):
        both.unwrap(both.wrap(data_key).replace("2026-11", "2026-10"), data_key_id="dk_1", org_id="org_a")


def test_the_greatest_kid_wraps_and_a_missing_one_is_named(envelope: Envelope, data_key: DataKey) -> None:
    wrapped = Envelope(OLD, secrets.token_bytes).wrap(data_key)
    assert envelope.unwrap(wrapped, data_key_id="dk_1", org_id="org_a") == data_key
    with pytest.raises(KeyMissing, match="2026-10"):
        Envelope(NEW, secrets.token_bytes).unwrap(wrapped, data_key_id="dk_1", org_id="org_a")
    with pytest.raises(NoSealingKey, match="TALLYGATE_LEDGER_SECRETS_KEYS"):
        Envelope({}, secrets.token_bytes).wrap(data_key)


def test_nonces_and_data_keys_are_never_the_same(envelope: Envelope, data_key: DataKey) -> None:
    sealed = {envelope.seal(data_key, SECRET, "openai", "pk_1") for _ in range(1_000)}
    wrapped = {envelope.wrap(data_key) for _ in range(1_000)}
    for texts in (sealed, wrapped):
        assert len({text.rpartition(":")[2][: NONCE_BYTES * 4 // 3] for text in texts}) == 1_000
    assert len({envelope.new_data_key("dk", "org").key for _ in range(100)}) == 100


def test_a_key_of_another_length_is_refused() -> None:
    for keys in ({"k": b"short"}, {"": b"k" * 32}):
        with pytest.raises(ValueError, match="32 bytes"):
            Envelope(keys, secrets.token_bytes)


def test_nothing_shows_a_key_or_a_secret(envelope: Envelope, data_key: DataKey) -> None:
    assert repr(data_key.key) not in repr(data_key)
    for shown in (repr(SECRET), str(SECRET), f"{SECRET}", f"{SECRET:>40}", "%s" % SECRET):  # noqa: UP031
        assert shown == "***"
