"""`tallygate verify`: checks a receipt, or an entry of the audit trail, offline, and says what it has checked.

Works on a file and needs no network, no service and no database: also as `python -m tallygate_deploy.verify`, with
nothing installed but this, `ledger_svc.domain`, meshkit's money, answers, ids and principal, cryptography, orjson,
rfc8785 and typer.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import rfc8785
import typer

from ledger_svc.domain.charges import ServedMode, quote
from ledger_svc.domain.receipts import Receipt, decode, encode, price_sha256
from ledger_svc.domain.signing import JwsKind, verify_jws
from meshkit.answers.statement import COVERED
from meshkit.money import format_usd
from tallygate_deploy.audit_entry import check_entry
from tallygate_deploy.checking import Check, Passed, VerificationError, load, printable, strict_json
from tallygate_deploy.contents import check_answer, check_request
from tallygate_deploy.key_trust import DEFAULT_TRUST_FILE, FirstUse, Trust, pinned_by_jwks, pinned_by_text
from tallygate_deploy.log_checks import bundled_keys, check_form, check_log, check_proof_form, origin_of

_WITH_ARTICLE = {JwsKind.RECEIPT: "a receipt", JwsKind.AUDIT_ENTRY: "an audit entry"}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is to be verified, and against what. ``pinned``: a checkpoint that the caller has kept from before.
    ``request``, ``answer``: what the caller sent and got, as bytes.
    """

    bundle: Mapping[str, Any]
    trust: Trust
    pinned: str | None = None
    consistency: Mapping[str, Any] | None = None
    request: bytes | None = None
    answer: bytes | None = None


def verify(evidence: Evidence) -> Iterator[Passed]:
    """Makes the checks in order, and gives each that passes.

    Raises:
        VerificationError: the first that fails; no later one is made.
    """
    bundle = evidence.bundle
    with Check("form"):
        kind = check_form(bundle)
    yield Passed("form", f"the file has exactly the parts of {_WITH_ARTICLE[kind.jws]}'s proof")
    with Check("keys"):
        keys, how = evidence.trust.keys_for(bundled_keys(bundle), origin_of(bundle["checkpoint"]))
    yield Passed("keys", how)
    with Check("signature"):
        kid, document = verify_jws(bundle["jws"], keys, kind.jws)
    yield Passed("signature", f"the {kind.noun} is signed with {kid} (Ed25519)")
    if kind.jws is JwsKind.AUDIT_ENTRY:
        yield from check_entry(document, bundle["entry_id"])
        _refuse_contents(evidence)
    else:
        receipt = yield from _check_document(document, bundle["receipt_id"])
        yield from _check_arithmetic(document, receipt)
        yield from _check_contents(evidence, receipt)
    yield from check_log(bundle, keys, pinned=evidence.pinned, consistency=evidence.consistency)


def _refuse_contents(evidence: Evidence) -> None:
    for name, given in (("request", evidence.request), ("answer", evidence.answer)):
        if given is not None:
            raise VerificationError(name, f"an audit entry is of no {name}, so there is nothing to compare with")


def _check_document(document: bytes, receipt_id: str) -> Generator[Passed, None, Receipt]:
    with Check("canonical form"):
        said = strict_json(document.decode())
        if rfc8785.dumps(said) != document:
            raise ValueError("the receipt is not RFC 8785 canonical JSON")
        receipt = decode(document.decode())
        known = strict_json(encode(receipt))
        if "price_sha256" in known:
            known["price_sha256"] = said.get("price_sha256")  # which has a check of its own
        if rfc8785.dumps(known) != document:
            raise ValueError(f"the receipt has other fields than a receipt of version {receipt.version}")
        if receipt.receipt_id != receipt_id:
            raise ValueError(f"the receipt is {receipt.receipt_id}, the file says {receipt_id}")
    yield Passed(
        "canonical form", f"{receipt.receipt_id} is RFC 8785 JSON with the fields of version {receipt.version}"
    )
    return receipt


def _check_arithmetic(document: bytes, receipt: Receipt) -> Iterator[Passed]:
    with Check("price hash"):
        said = json.loads(document).get("price_sha256")
        if receipt.version > 1 and said != price_sha256(receipt.facts.price):
            raise ValueError(f"the receipt says {said}, its price snapshot has {price_sha256(receipt.facts.price)}")
    yield Passed("price hash", said or "receipts of version 1 have none")
    with Check("charge"):
        owed = quote(receipt.facts)
        charged, absorbed, saved = receipt.charged_nano_usd, receipt.absorbed_nano_usd, receipt.saved_nano_usd
        if min(charged, absorbed, receipt.held_nano_usd) < 0 or charged + absorbed != owed.due_nano_usd:
            raise ValueError(
                f"charged ${format_usd(charged)} and absorbed ${format_usd(absorbed)} are not the "
                f"${format_usd(owed.due_nano_usd)} that the usage costs at the price snapshot"
            )
        if saved != owed.saved_nano_usd:
            raise ValueError(f"saved ${format_usd(saved)}, it should be ${format_usd(owed.saved_nano_usd)}")
    mode = receipt.facts.served_mode.value
    replay = f" x {receipt.facts.price.replay_bps} bps, saved ${format_usd(saved)}" if saved else ""
    rest = f", absorbed ${format_usd(absorbed)}" if absorbed else ""
    yield Passed("charge", f"${format_usd(charged)} = usage x price snapshot ({mode}{replay}){rest}")


def _check_contents(evidence: Evidence, receipt: Receipt) -> Iterator[Passed]:
    facts = receipt.facts
    with Check("origin"):
        if (facts.served_mode is ServedMode.FRESH) == bool(facts.origin_receipt_id):
            raise ValueError("a replay names the receipt of its origin, and nothing else does")
    origin = facts.origin_receipt_id
    yield Passed("origin", f"a replay of the answer of {origin}" if origin else "a fresh call, not a replay")
    if evidence.request is None:
        yield Passed("request", "not given (--request)", made=False)
    else:
        with Check("request"):
            found = check_request(facts.request_digest, evidence.request)
        yield Passed("request", found)
    if evidence.answer is None:
        yield Passed("answer", "not given (--answer)", made=False)
    else:
        with Check("answer"):
            found = check_answer(facts.answer_digest, evidence.answer, strict_json)
        yield Passed("answer", found)


_File: dict[str, Any] = {"exists": True, "dir_okay": False}
_Receipt = Annotated[
    Path,
    typer.Argument(
        **_File, help="The answer of GET /v1/receipts/ID/proof or of GET /v1/audit-log/ID/proof, in a file."
    ),
]
_Checkpoint = Annotated[
    Path | None,
    typer.Option(
        **_File,
        help="A checkpoint kept from before (GET /v1/log/checkpoint): the log must have grown from it, or to it. "
        "The proof needs ?since=SIZE, or --consistency.",
    ),
]
_Consistency = Annotated[
    Path | None, typer.Option(**_File, help="The answer of GET /v1/log/consistency, for --checkpoint.")
]
_Jwks = Annotated[
    Path | None,
    typer.Option(
        **_File,
        help="Believe the keys of this file only (GET /.well-known/jwks.json, fetched once over a channel that you "
        "trust).",
    ),
]
_Key = Annotated[
    list[str] | None, typer.Option(metavar="KID=X", help="Believe this key, X as in the JWKS; repeatable.")
]
_TrustFile = Annotated[
    Path, typer.Option(help="Without --jwks and --key: where the keys that each log had at first are kept.")
]
_Request = Annotated[
    Path | None,
    typer.Option(**_File, help="The request's body, byte for byte as it was sent (with curl: --data-binary @FILE)."),
]
_Answer = Annotated[
    Path | None,
    typer.Option(
        **_File,
        help="The answer as it came: the JSON body, or the stream with its `data:` lines (curl -N). Compared is what "
        f"was said ({', '.join(COVERED)}); id, created and usage are each replay's own, so an answer fits the receipts "
        "of its replays too, and theirs its own.",
    ),
]


def command(
    receipt: _Receipt,
    checkpoint: _Checkpoint = None,
    consistency: _Consistency = None,
    jwks: _Jwks = None,
    key: _Key = None,
    trust_file: _TrustFile = DEFAULT_TRUST_FILE,
    request: _Request = None,
    answer: _Answer = None,
) -> None:
    """Verify a receipt, or an entry of the audit trail, offline.

    A proof carries its keys, but keys that come with a document prove nothing. Pin them with --jwks or --key. Without
    either, those of a log that is met for the first time are believed and kept in --trust-file, and no others later:
    then the first time is the one to be sure of. The receipt has no text of a request or an answer, only digests: keep
    both to compare them, with --request and --answer. Prints a line for each check and ends with 1 at the first that
    fails.
    """
    try:
        trust = _trust(jwks, key, trust_file)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    try:
        with Check("form"):
            evidence = Evidence(
                strict_json(load(receipt)),
                trust,
                load(checkpoint) if checkpoint else None,
                _consistency_file(consistency),
                request.read_bytes() if request else None,
                answer.read_bytes() if answer else None,
            )
        for passed in verify(evidence):
            typer.echo(passed)
    except VerificationError as failure:
        typer.echo(f"FAILED   {failure.check}: {printable(str(failure))}")
        raise typer.Exit(1) from None
    if kept := trust.remember():
        typer.echo(f"note     {kept}")


def _trust(jwks: Path | None, keys: list[str] | None, trust_file: Path) -> Trust:
    if jwks and keys:
        raise ValueError("give --jwks or --key, not both")
    if jwks:
        return pinned_by_jwks(jwks)
    return pinned_by_text(keys) if keys else FirstUse(trust_file.expanduser())


def _consistency_file(path: Path | None) -> Mapping[str, Any] | None:
    if path is None:
        return None
    proof: Mapping[str, Any] = strict_json(load(path))
    check_proof_form(proof)
    return proof


if __name__ == "__main__":
    typer.run(command)
