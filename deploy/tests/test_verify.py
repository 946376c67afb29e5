"""`tallygate verify`: a right proof passes, and whatever is changed is found by the check whose business it is."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from receipt_log import KEYS, LOG, OTHER_KEYS, Log, receipt

from edge.wire.log import jwks_json
from ledger_svc.domain.receipts import encode
from ledger_svc.domain.signing import Keyring, load_private_key
from tallygate_deploy.checking import VerificationError, strict_json
from tallygate_deploy.key_trust import pinned_by_jwks
from tallygate_deploy.verify import Evidence, verify


def test_a_right_proof_says_each_check_that_was_made(run: Callable[..., tuple[int, str]]) -> None:
    code, output = run(LOG.bundle(1, 11, since=4), checkpoint=LOG.checkpoint(4))
    assert code == 0, output
    lines = output.splitlines()
    assert [line.split(":")[0] for line in lines if line.startswith("left out")] == [
        "left out request",
        "left out answer",
    ], "said, so that nobody takes them for checked"
    lines = [line for line in lines if not line.startswith("left out")]
    assert [line.split(":")[0] for line in lines] == [
        f"ok       {check}"
        for check in (
            *("form", "keys", "signature", "canonical form", "price hash", "charge", "origin"),
            *("leaf hash", "checkpoint signature", "inclusion", "consistency"),
        )
    ]
    assert "(exact x 2500 bps, saved $" in lines[5]
    assert "a replay of the answer of rcpt_0" in lines[6]
    assert "leaf 1 of 11" in lines[9]


@pytest.mark.parametrize("size", [1, 2, 11, 15])
def test_every_receipt_of_a_log_passes(size: int, jwks: Path) -> None:
    for index in range(size):
        assert len(list(verify(Evidence(LOG.bundle(index, size), pinned_by_jwks(jwks))))) == 13


@pytest.mark.parametrize(("pinned", "size"), [(0, 5), (5, 5), (4, 11), (8, 15), (11, 5)])
def test_a_pinned_checkpoint_of_the_same_log_passes(
    run: Callable[..., tuple[int, str]], pinned: int, size: int
) -> None:
    assert run(LOG.bundle(2, size, since=pinned), checkpoint=LOG.checkpoint(pinned))[0] == 0


def test_any_changed_bit_of_the_file_is_found(jwks: Path) -> None:
    text = json.dumps(LOG.bundle(1, 11, since=4), separators=(",", ":"), ensure_ascii=False).encode()
    trust, pinned = pinned_by_jwks(jwks), LOG.checkpoint(4)
    assert list(verify(Evidence(strict_json(text.decode()), trust, pinned)))
    for at in range(len(text)):
        changed = text[:at] + bytes([text[at] ^ 1 << at % 8]) + text[at + 1 :]
        with pytest.raises((VerificationError, ValueError)):
            list(verify(Evidence(strict_json(changed.decode()), trust, pinned)))


def _changed(bundle: dict[str, Any], **change: Any) -> dict[str, Any]:
    changed = copy.deepcopy(bundle)
    for path, value in change.items():
        *parents, name = path.split("__")
        at = changed
        for parent in parents:
            at = at[parent]
        at[name] = value
    return changed


def _wrong(**change: Any) -> dict[str, Any]:
    """A ledger that lies: the receipt is signed and logged, and wrong."""
    documents = list(LOG.documents)
    document = json.loads(documents[1])
    for name, value in change.items():
        document[name] = value(document[name]) if callable(value) else value
    documents[1] = rfc8785.dumps(document).decode()
    return Log(documents).bundle(1, 11)


def _more_fields() -> dict[str, Any]:
    documents = [rfc8785.dumps(json.loads(document) | {"prompt": "secret"}).decode() for document in LOG.documents]
    return Log(documents).bundle(1, 11)


RIGHT = LOG.bundle(1, 11)
LEFT_OUT = Log([*LOG.documents[:2], *LOG.documents[3:]])
TAMPERED: dict[str, tuple[str, Callable[[], Any]]] = {
    "not JSON": ("form", lambda: "{"),
    "another document": ("form", lambda: {"object": "receipt"}),
    "a list": ("form", lambda: []),
    "nested deep": ("form", lambda: "[" * 100_000),
    "a name twice": ("form", lambda: json.dumps(RIGHT)[:-1] + ', "jws": "x"}'),
    "one part more": ("form", lambda: RIGHT | {"more": 1}),
    "one part less": ("form", lambda: {name: part for name, part in RIGHT.items() if name != "jwks"}),
    "a size as text": ("form", lambda: _changed(RIGHT, inclusion__tree_size="11")),
    "the keys of a forger": ("keys", lambda: Log(LOG.documents, OTHER_KEYS).bundle(1, 11)),
    "a receipt of a forger": ("signature", lambda: RIGHT | {"jws": Log(LOG.documents, OTHER_KEYS).jws(1)}),
    "no receipt": ("signature", lambda: RIGHT | {"jws": "a.b.c"}),
    "a number as receipt": ("signature", lambda: RIGHT | {"jws": 5}),
    "another name": ("canonical form", lambda: RIGHT | {"receipt_id": "rcpt_2"}),
    "spaces in the document": (
        "canonical form",
        lambda: Log([d.replace(":", ": ", 1) for d in LOG.documents]).bundle(1, 11),
    ),
    "a field more": ("canonical form", _more_fields),
    "an unknown version": ("canonical form", lambda: _wrong(v=4)),
    "another price hash": ("price hash", lambda: _wrong(price_sha256="0" * 64)),
    "another price": ("price hash", lambda: _wrong(price=lambda price: price | {"markup_bps": 400})),
    "a charge too high": ("charge", lambda: _wrong(charged_usd="0.00001")),
    "a charge too low": ("charge", lambda: _wrong(charged_usd="0")),
    "a loss that was none": ("charge", lambda: _wrong(absorbed_usd="0.000000001")),
    "a charge beyond the hidden loss": ("charge", lambda: _wrong(charged_usd="1", absorbed_usd="-1")),
    "savings that were none": ("charge", lambda: _wrong(saved_usd="1")),
    "a replay at the full price": ("charge", lambda: _wrong(served_mode="fresh")),
    "usage that was not": ("charge", lambda: _wrong(usage=lambda usage: usage | {"output_tokens": 8})),
    "an unsigned checkpoint": (
        "checkpoint signature",
        lambda: RIGHT | {"checkpoint": RIGHT["checkpoint"].partition("—")[0]},
    ),
    "a checkpoint of a forger": (
        "checkpoint signature",
        lambda: RIGHT | {"checkpoint": Log(LOG.documents, OTHER_KEYS).checkpoint(11)},
    ),
    "a checkpoint of another size": ("inclusion", lambda: RIGHT | {"checkpoint": LOG.checkpoint(10)}),
    "another place": ("inclusion", lambda: _changed(RIGHT, inclusion__leaf_index=2)),
    "a place beyond the log": ("inclusion", lambda: _changed(RIGHT, inclusion__leaf_index=11)),
    "a hash less": ("inclusion", lambda: _changed(RIGHT, inclusion__hashes=RIGHT["inclusion"]["hashes"][1:])),
    "a short hash": ("inclusion", lambda: _changed(RIGHT, inclusion__hashes=["AAAA"])),
    "a receipt left out of the log": (
        "inclusion",
        lambda: RIGHT | {"jws": Log([encode(receipt(99)), *LOG.documents]).jws(0), "receipt_id": "rcpt_99"},
    ),
    "a receipt that a log has since left out": (
        "inclusion",
        lambda: LEFT_OUT.bundle(2, 11) | {"jws": LOG.jws(2), "receipt_id": "rcpt_2"},
    ),
    "a replay of nothing": ("origin", lambda: _wrong(origin_receipt_id="")),
    "a proof that nobody asked for": ("consistency", lambda: LOG.bundle(1, 11, since=4)),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_the_check_whose_business_it_is_fails(run: Callable[..., tuple[int, str]], what: str) -> None:
    check, bundle = TAMPERED[what]
    code, output = run(bundle())
    assert code == 1, output
    assert output.splitlines()[-1].startswith(f"FAILED   {check}: "), output


REWRITTEN = Log([*LOG.documents[:3], encode(receipt(77)), *LOG.documents[4:]])


@pytest.mark.parametrize(
    ("bundle", "pinned", "check"),
    [
        (lambda: LOG.bundle(1, 11, since=4), lambda: REWRITTEN.checkpoint(4), "consistency"),
        (lambda: REWRITTEN.bundle(1, 11, since=4), lambda: LOG.checkpoint(4), "consistency"),
        (lambda: LEFT_OUT.bundle(1, 11, since=4), lambda: LOG.checkpoint(4), "consistency"),
        (lambda: LEFT_OUT.bundle(1, 11), lambda: LOG.checkpoint(11), "consistency"),
        (lambda: REWRITTEN.bundle(1, 11), lambda: LOG.checkpoint(11), "consistency"),
        (lambda: LOG.bundle(1, 11), lambda: LOG.checkpoint(4), "consistency"),
        (lambda: LOG.bundle(1, 11, since=5), lambda: LOG.checkpoint(4), "consistency"),
        (lambda: LOG.bundle(1, 5, since=11), lambda: REWRITTEN.checkpoint(11), "consistency"),
        (lambda: LOG.bundle(1, 11, since=4), lambda: "nonsense", "pinned checkpoint"),
        (lambda: LOG.bundle(1, 11, since=4), lambda: Log(LOG.documents, OTHER_KEYS).checkpoint(4), "pinned checkpoint"),
    ],
)
def test_a_rewritten_log_is_found(
    run: Callable[..., tuple[int, str]], bundle: Callable[[], Any], pinned: Callable[[], str], check: str
) -> None:
    code, output = run(bundle(), checkpoint=pinned())
    assert code == 1
    assert output.splitlines()[-1].startswith(f"FAILED   {check}: "), output


def test_the_consistency_proof_may_come_in_its_own_file(run: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    path = tmp_path / "consistency.json"
    path.write_text(json.dumps(LOG.bundle(1, 11, since=4)["consistency"]))
    assert run(RIGHT, "--consistency", str(path), checkpoint=LOG.checkpoint(4))[0] == 0
    path.write_text("{}")
    code, output = run(RIGHT, "--consistency", str(path), checkpoint=LOG.checkpoint(4))
    assert (code, output.startswith("FAILED   form: ")) == (1, True)


def test_keys_are_believed_on_first_use_and_no_others_later(
    run: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    trust = ["--trust-file", str(tmp_path / "home" / "known.json")]
    broken = RIGHT | {"receipt_id": "rcpt_2"}
    assert run(broken, *trust, pinned=False)[0] == 1
    assert not (tmp_path / "home").exists()
    code, output = run(RIGHT, *trust, pinned=False)
    assert code == 0
    assert "met for the first time" in output
    assert "no others are believed from now on" in output
    code, output = run(RIGHT, *trust, pinned=False)
    assert code == 0
    assert "met for the first time" not in output
    code, output = run(Log(LOG.documents, OTHER_KEYS).bundle(1, 11), *trust, pinned=False)
    assert (code, output.splitlines()[-1][:13]) == (1, "FAILED   keys")


def test_a_key_may_be_given_as_text(run: Callable[..., tuple[int, str]]) -> None:
    x = jwks_json(LOG.listed())["keys"][0]["x"]
    assert run(RIGHT, "--key", f"2026-11={x}", pinned=False)[0] == 0
    assert run(RIGHT, "--key", f"2026-10={x}", pinned=False)[0] == 1
    for bad in ("x", f"={x}", "2026-11=short"):
        assert run(RIGHT, "--key", bad, pinned=False)[0] == 2
    assert run(RIGHT, "--key", f"2026-11={x}")[0] == 2


def test_receipts_from_before_a_rotation_pass_with_the_new_keys(tmp_path: Path, run: Callable[..., Any]) -> None:
    after = Keyring({"2026-12": load_private_key("b25l" * 10 + "b24")}, KEYS.public)
    path = tmp_path / "new.json"
    bundle = LOG.bundle(1, 11)
    bundle["checkpoint"] = Log(LOG.documents, KEYS).checkpoint(11)
    bundle["jwks"] = jwks_json(Log([], after).listed())
    path.write_text(json.dumps(bundle["jwks"]))
    assert run(bundle, "--jwks", str(path), pinned=False)[0] == 0
    code, output = run(bundle)
    assert code == 1
    assert "get the JWKS again" in output


def test_a_receipt_of_version_1_passes(run: Callable[..., tuple[int, str]]) -> None:
    old = receipt(0, version=1)
    old = replace(old, facts=replace(old.facts, request_digest=""))
    code, output = run(Log([encode(old)]).bundle(0, 1))
    assert code == 0, output
    assert "price_sha256" not in encode(old)


def test_an_absorbed_rest_is_part_of_the_sum(run: Callable[..., tuple[int, str]]) -> None:
    whole = receipt(0).charged_nano_usd
    code, output = run(Log([encode(receipt(0, charged_nano_usd=whole - 5, absorbed_nano_usd=5))]).bundle(0, 1))
    assert code == 0
    assert "absorbed $0.000000005" in output


def test_what_a_file_says_can_not_write_on_the_terminal(run: Callable[..., tuple[int, str]]) -> None:
    assert "\x1b" not in run({"object": "receipt_proof", "\x1b[2J": 1})[1]


def test_the_verifier_loads_no_service_and_no_network() -> None:
    heavy = ("grpc", "google", "sqlalchemy", "fastapi", "httpx", "edge", "ledger_svc.store", "ledger_svc.service")
    code = f"import sys, tallygate_deploy.verify; sys.exit(' '.join(m for m in {heavy!r} if m in sys.modules) or 0)"
    subprocess.run([sys.executable, "-c", code], check=True)
