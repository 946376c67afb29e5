"""`tallygate verify` on entries of the audit trail: what it says, and that whatever is changed is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from receipt_log import LOG, OTHER_KEYS, Log, receipt

from ledger_svc.domain.receipts import encode
from ledger_svc.domain.signing import JwsKind
from ledger_svc.domain.trail import TrailEntry
from meshkit.principal import Actor, ActorKind
from tallygate_deploy.checking import VerificationError, strict_json
from tallygate_deploy.key_trust import pinned_by_jwks
from tallygate_deploy.verify import Evidence, verify

ADA = Actor(ActorKind.API_KEY, "key_ada", "2001:db8::7", "ab" * 16)


def entry(n: int, **fields: Any) -> TrailEntry:
    given: dict[str, Any] = {"before": {"limit_usd": "5"}, "after": {"limit_usd": "7"}}
    return TrailEntry(f"aud_{n}", "org_1", 1_750_000_000_123 + n, ADA, "cap.set", "prj_1", **given | fields)


MIXED = Log([document for n in range(7) for document in (encode(receipt(n)), entry(n).document())])
RIGHT = MIXED.bundle(3, 11)


def test_a_right_proof_says_each_check_that_was_made(run: Callable[..., tuple[int, str]]) -> None:
    code, output = run(MIXED.bundle(3, 11, since=4), checkpoint=MIXED.checkpoint(4))
    assert code == 0, output
    lines = output.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        f"ok       {check}"
        for check in (
            *("form", "keys", "signature", "canonical form", "statement"),
            *("leaf hash", "checkpoint signature", "inclusion", "consistency"),
        )
    ]
    assert "an audit entry's proof" in lines[0]
    assert lines[4].endswith(
        "2025-06-15T15:06:40.124+00:00 api_key key_ada from 2001:db8::7: cap.set prj_1 of org_1 "
        "(what it says, not that it is so)"
    )
    assert "leaf 3 of 11" in lines[7]


@pytest.mark.parametrize("size", [2, 11, 14])
def test_every_leaf_of_a_mixed_log_passes(size: int, jwks: Path) -> None:
    for index in range(size):
        assert list(verify(Evidence(MIXED.bundle(index, size), pinned_by_jwks(jwks))))


def test_any_changed_bit_of_the_file_is_found(jwks: Path) -> None:
    whole = json.dumps(MIXED.bundle(3, 11, since=4), separators=(",", ":"), ensure_ascii=False).encode()
    trust, pinned = pinned_by_jwks(jwks), MIXED.checkpoint(4)
    assert list(verify(Evidence(strict_json(whole.decode()), trust, pinned)))
    for at in range(len(whole)):
        changed = whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :]
        with pytest.raises((VerificationError, ValueError)):
            list(verify(Evidence(strict_json(changed.decode()), trust, pinned)))


def _wrong(**change: Any) -> dict[str, Any]:
    """A ledger that signs what no audit entry is."""
    documents = list(MIXED.documents)
    documents[3] = rfc8785.dumps(json.loads(documents[3]) | change).decode()
    return Log(documents).bundle(3, 11) | {"entry_id": "aud_1"}


TAMPERED: dict[str, tuple[str, Callable[[], Any]]] = {
    "one part more": ("form", lambda: RIGHT | {"receipt_id": "aud_1"}),
    "one part less": ("form", lambda: {name: part for name, part in RIGHT.items() if name != "entry_id"}),
    "another kind of object": ("form", lambda: RIGHT | {"object": "receipt_proof"}),
    "an object that is a list": ("form", lambda: RIGHT | {"object": ["audit_proof"]}),
    "the keys of a forger": ("keys", lambda: Log(MIXED.documents, OTHER_KEYS).bundle(3, 11)),
    "a receipt's signature": ("signature", lambda: RIGHT | {"jws": MIXED.jws(2)}),
    "an entry signed as a receipt": ("signature", lambda: RIGHT | {"jws": MIXED.jws(3, JwsKind.RECEIPT)}),
    "another name": ("canonical form", lambda: RIGHT | {"entry_id": "aud_2"}),
    "another state": ("inclusion", lambda: RIGHT | {"jws": Log([entry(1, after={}).document()]).jws(0)}),
    "a field more": ("canonical form", lambda: _wrong(secret="x")),
    "an unknown version": ("canonical form", lambda: _wrong(v=2)),
    "no object before": ("canonical form", lambda: _wrong(before="x")),
    "a time that is none": ("statement", lambda: _wrong(created_at_ms=2**53 - 1)),
    "spaces in the document": (
        "canonical form",
        lambda: Log([document.replace(":", ": ", 1) for document in MIXED.documents]).bundle(3, 11),
    ),
    "another place": ("inclusion", lambda: RIGHT | {"inclusion": MIXED.bundle(5, 11)["inclusion"]}),
    "a log without it": ("inclusion", lambda: RIGHT | {"checkpoint": LOG.checkpoint(11)}),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_the_check_whose_business_it_is_fails(run: Callable[..., tuple[int, str]], what: str) -> None:
    check, bundle = TAMPERED[what]
    code, output = run(bundle())
    assert code == 1, output
    assert output.splitlines()[-1].startswith(f"FAILED   {check}: "), output


@pytest.mark.parametrize("name", ["request", "answer"])
def test_a_request_or_an_answer_is_of_no_audit_entry(
    run: Callable[..., tuple[int, str]], tmp_path: Path, name: str
) -> None:
    (tmp_path / "body").write_text("{}")
    code, output = run(RIGHT, f"--{name}", str(tmp_path / "body"))
    assert code == 1
    assert output.splitlines()[-1].startswith(f"FAILED   {name}: an audit entry is of no {name}"), output
