"""Signatures: another implementation of JWS agrees, and every change of what was signed shows."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc import jws as joserfc_jws
from joserfc.jwk import KeySet, OKPKey

from ledger_svc.domain.checkpoints import (
    check_origin,
    key_id,
    parse_checkpoint,
    sign_checkpoint,
    verify_checkpoint,
)
from ledger_svc.domain.merkle import Frontier, leaf_hash
from ledger_svc.domain.signing import (
    InvalidSignatureError,
    Keyring,
    base64url,
    compact,
    jwk,
    load_private_key,
    load_public_key,
    public_key_from_jwk,
    verify_jws,
)

OLD, NEW = (Ed25519PrivateKey.from_private_bytes(seed * 32) for seed in (b"o", b"n"))
KEYS = Keyring({"2026-11": NEW, "2026-10": OLD})
ORIGIN = "example.com/tallygate"
DOCUMENT = b'{"a":1}'


def signed(document: bytes = DOCUMENT, keys: Keyring = KEYS) -> str:
    seal = keys.seal(document)
    return compact(seal.kid, document, seal.signature).decode()


@pytest.mark.filterwarnings(
    "ignore:EdDSA is deprecated"
)  # by RFC 9864; joserfc warns of it, few others know its successor
def test_another_implementation_verifies_the_jws_and_reads_the_keys() -> None:
    keys = KeySet([OKPKey.import_key(dict(jwk(kid, key))) for kid, key in KEYS.public.items()])
    found = joserfc_jws.deserialize_compact(signed(), keys, algorithms=["EdDSA"])
    assert found.payload == DOCUMENT
    assert found.headers() == {"alg": "EdDSA", "kid": "2026-11", "typ": "tallygate-receipt+jws"}


def test_the_vector_of_rfc_8037() -> None:
    """Appendix A.4: key and signature; its header is another one, so the pieces are compared."""
    key = load_private_key("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A")
    assert jwk("x", key.public_key())["x"] == "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
    signature = key.sign(b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc")
    assert base64url(signature) == (
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    )


def test_the_seal_hashes_the_whole_jws() -> None:
    assert KEYS.seal(DOCUMENT).leaf_hash == leaf_hash(signed().encode())
    assert KEYS.seal(DOCUMENT) == KEYS.seal(DOCUMENT)


def test_any_changed_bit_of_a_jws_shows() -> None:
    jws = signed().encode()
    assert verify_jws(signed(), KEYS.public) == ("2026-11", DOCUMENT)
    for at in range(len(jws)):
        for bit in range(7):
            changed = jws[:at] + bytes([jws[at] ^ 1 << bit]) + jws[at + 1 :]
            with pytest.raises(InvalidSignatureError):
                verify_jws(changed.decode(), KEYS.public)


def _jws(header: object, payload: bytes = DOCUMENT) -> str:
    protected = base64url(json.dumps(header, separators=(",", ":")).encode())
    signature = NEW.sign(f"{protected}.{base64url(payload)}".encode())
    return f"{protected}.{base64url(payload)}.{base64url(signature)}"


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none", "kid": "2026-11", "typ": "tallygate-receipt+jws"},
        {"alg": "HS256", "kid": "2026-11", "typ": "tallygate-receipt+jws"},
        {"alg": "EdDSA", "kid": "2026-11", "typ": "another+jws"},
        {"kid": "2026-11", "alg": "EdDSA", "typ": "tallygate-receipt+jws"},
        {"alg": "EdDSA", "crit": ["b64"], "kid": "2026-11", "typ": "tallygate-receipt+jws"},
        {"alg": "EdDSA", "kid": "2026-12", "typ": "tallygate-receipt+jws"},
        {"alg": "EdDSA", "kid": ["2026-11"], "typ": "tallygate-receipt+jws"},
        {"alg": "EdDSA", "typ": "tallygate-receipt+jws"},
        ["alg"],
        "x",
    ],
)
def test_only_the_one_header_is_taken(header: object) -> None:
    with pytest.raises(InvalidSignatureError):
        verify_jws(_jws(header), KEYS.public)


@pytest.mark.parametrize("jws", ["", "a.b", "a.b.c.d", "..", "é.é.é", signed() + "=", signed() + "\n", "[" * 9000])
def test_what_is_no_jws_is_refused(jws: str) -> None:
    with pytest.raises(InvalidSignatureError):
        verify_jws(jws, KEYS.public)


def test_a_new_key_signs_and_the_old_one_still_verifies() -> None:
    before = Keyring({"2026-10": OLD})
    receipt, note = signed(keys=before), sign_checkpoint(ORIGIN, Frontier(), before, 1).note
    after = Keyring({"2026-10": OLD, "2026-11": NEW})
    assert after.signing_kid == "2026-11"
    retired = Keyring({"2026-11": NEW}, {"2026-10": OLD.public_key()})
    for keys in (after, retired):
        assert verify_jws(receipt, keys.public)[0] == "2026-10"
        assert verify_checkpoint(note, keys.public)[0] == "2026-10"
        assert verify_jws(signed(keys=keys), keys.public)[0] == "2026-11"
    assert Keyring({"2026-10": OLD, "2026-11": NEW}, signing_kid="2026-10").seal(DOCUMENT).kid == "2026-10"
    with pytest.raises(InvalidSignatureError, match="2026-11"):
        verify_jws(signed(keys=after), before.public)


def test_a_keyring_that_can_not_sign_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Keyring({})
    with pytest.raises(ValueError, match="no signing key x"):
        Keyring({"a": OLD}, signing_kid="x")
    with pytest.raises(ValueError, match="either signing or retired"):
        Keyring({"a": OLD}, {"a": OLD.public_key()})


def test_keys_are_read_from_pem_and_from_seeds() -> None:
    pem = NEW.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    for text in (pem, base64url(b"n" * 32), f"{base64url(b'n' * 32)}\n"):
        assert load_private_key(text).private_bytes_raw() == b"n" * 32
    other = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    for text in (other, "", "short", base64url(b"n" * 31), base64.b64encode(b"\xff" * 32).decode()):
        with pytest.raises(ValueError, match=r"Ed25519|bytes|base64url"):
            load_private_key(text)
    assert load_public_key(base64url(NEW.public_key().public_bytes_raw())) == NEW.public_key()


@pytest.mark.parametrize("change", [{"kty": "RSA"}, {"crv": "X25519"}, {"kid": ""}, {"x": 5}, {"d": "secret"}])
def test_another_kind_of_jwk_is_refused(change: dict[str, object]) -> None:
    right = jwk("2026-11", NEW.public_key())
    assert public_key_from_jwk(right) == ("2026-11", NEW.public_key())
    with pytest.raises(ValueError, match="key"):
        public_key_from_jwk(right | change)


# --- checkpoints ---


def checkpoint(leaves: int = 3) -> str:
    frontier, _ = Frontier().extended([leaf_hash(bytes([n])) for n in range(leaves)])
    return sign_checkpoint(ORIGIN, frontier, KEYS, 1).note


def test_a_checkpoint_is_a_signed_note_of_three_lines() -> None:
    """https://c2sp.org/tlog-checkpoint, https://c2sp.org/signed-note."""
    origin, size, root, blank, signature, rest = checkpoint().split("\n")
    assert (origin, size, blank, rest) == (ORIGIN, "3", "", "")
    assert len(base64.b64decode(root)) == 32
    dash, name, encoded = signature.split(" ")
    assert (dash, name) == ("\u2014", ORIGIN)
    hint = hashlib.sha256(ORIGIN.encode() + b"\n\x01" + NEW.public_key().public_bytes_raw()).digest()[:4]
    assert base64.b64decode(encoded)[:4] == hint == key_id(ORIGIN, NEW.public_key())
    NEW.public_key().verify(base64.b64decode(encoded)[4:], f"{origin}\n{size}\n{root}\n".encode())


def test_the_key_id_of_a_published_verifier_key() -> None:
    """sum.golang.org+033de0ae+..., the key of Go's checksum database."""
    key = base64.b64decode("Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8")
    assert key[:1] == b"\x01"
    assert key_id("sum.golang.org", load_public_key(base64url(key[1:]))).hex() == "033de0ae"


def test_any_changed_bit_of_a_checkpoint_shows() -> None:
    note = checkpoint().encode()
    assert verify_checkpoint(note.decode(), KEYS.public)[1] == parse_checkpoint(note.decode())
    for at in range(len(note)):
        for bit in range(8):
            changed = note[:at] + bytes([note[at] ^ 1 << bit]) + note[at + 1 :]
            with pytest.raises((InvalidSignatureError, UnicodeDecodeError)):
                verify_checkpoint(changed.decode(), KEYS.public)


def test_a_witness_may_sign_too_but_not_alone() -> None:
    witness = "\u2014 witness.example/w " + base64.b64encode(b"\x00" * 80).decode() + "\n"
    assert verify_checkpoint(checkpoint() + witness, KEYS.public)[0] == "2026-11"
    text = checkpoint().partition("\u2014")[0]
    with pytest.raises(InvalidSignatureError, match="none of the known keys"):
        verify_checkpoint(text + witness, KEYS.public)
    false = "\u2014 " + ORIGIN + " " + base64.b64encode(key_id(ORIGIN, NEW.public_key()) + b"\x00" * 64).decode() + "\n"
    with pytest.raises(InvalidSignatureError, match="does not fit"):
        verify_checkpoint(checkpoint() + false, KEYS.public)


ROOT = base64.b64encode(b"r" * 32).decode()
SIGNATURE = f"\u2014 o {base64.b64encode(b's' * 68).decode()}\n"


@pytest.mark.parametrize(
    "note",
    [
        "",
        f"o\n1\n{ROOT}\n",
        f"o\n01\n{ROOT}\n\n{SIGNATURE}",
        f"o\n-1\n{ROOT}\n\n{SIGNATURE}",
        f"o\n1_0\n{ROOT}\n\n{SIGNATURE}",
        f"o\n\u0661\n{ROOT}\n\n{SIGNATURE}",
        f"o\n1\n{ROOT[4:]}\n\n{SIGNATURE}",
        f"o\n1\n{ROOT}\nextension\n\n{SIGNATURE}",
        f"o o\n1\n{ROOT}\n\n{SIGNATURE}",
        f"o\n1\n{ROOT}\n\n{SIGNATURE[1:]}",
        f"o\n1\n{ROOT}\n\n{SIGNATURE.strip()}",
        f"o\n1\n{ROOT}\n\n" + SIGNATURE * 200,
    ],
)
def test_what_is_no_checkpoint_is_refused(note: str) -> None:
    with pytest.raises(InvalidSignatureError):
        parse_checkpoint(note)


@pytest.mark.parametrize("origin", ["", "with space", "with+plus", "new\nline", "x" * 201, "tab\t"])
def test_an_origin_that_can_not_name_a_key_is_refused(origin: str) -> None:
    with pytest.raises(ValueError, match="origin"):
        check_origin(origin)
