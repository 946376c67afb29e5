"""`tallygate verify`: checks a receipt offline, and says what it has checked.

Works on a file and needs no network, no service and no database: also as `python -m tallygate_deploy.verify`, with
nothing installed but this, `ledger_svc.domain`, `meshkit.money`, cryptography, rfc8785 and typer.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import rfc8785
import typer

from ledger_svc.domain.charges import quote
from ledger_svc.domain.checkpoints import Statement, verify_checkpoint
from ledger_svc.domain.errors import LedgerError
from ledger_svc.domain.merkle import HASH_BYTES, leaf_hash, verify_consistency, verify_inclusion
from ledger_svc.domain.receipts import Receipt, decode, encode, price_sha256
from ledger_svc.domain.signing import (
    InvalidSignatureError,
    PublicKeys,
    public_key_from_jwk,
    verify_jws,
)
from meshkit.money import format_usd
from tallygate_deploy.key_trust import DEFAULT_TRUST_FILE, FirstUse, Trust, pinned_by_jwks, pinned_by_text

MAX_FILE_BYTES = 10_000_000
_BUNDLE = {"object", "receipt_id", "jws", "inclusion", "checkpoint", "jwks"}
_PROOF = {"first_size", "second_size", "hashes"}


class VerificationError(Exception):
    """A check has failed."""

    def __init__(self, check: str, why: str) -> None:
        super().__init__(why)
        self.check = check


@dataclass(frozen=True, slots=True)
class Passed:
    """A check that was made, and what it found; or one that was left out, and why."""

    check: str
    found: str
    made: bool = True

    def __str__(self) -> str:
        return f"{'ok' if self.made else 'left out':8} {self.check}: {printable(self.found)}"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is to be verified, and against what. ``pinned``: a checkpoint that the caller has kept from before."""

    bundle: Mapping[str, Any]
    trust: Trust
    pinned: str | None = None
    consistency: Mapping[str, Any] | None = None


def verify(evidence: Evidence) -> Iterator[Passed]:
    """Makes the checks in order, and gives each that passes.

    Raises:
        VerificationError: the first that fails; no later one is made.
    """
    bundle = evidence.bundle
    with _Check("form"):
        _check_form(bundle)
    yield Passed("form", "the file has exactly the parts of a receipt's proof")
    with _Check("keys"):
        keys, how = evidence.trust.keys_for(_bundled_keys(bundle), _origin(bundle["checkpoint"]))
    yield Passed("keys", how)
    with _Check("signature"):
        kid, document = verify_jws(bundle["jws"], keys)
    yield Passed("signature", f"the receipt is signed with {kid} (Ed25519)")
    receipt = yield from _check_document(document, bundle["receipt_id"])
    yield from _check_arithmetic(document, receipt)
    yield from _check_log(evidence, keys)


def _check_document(document: bytes, receipt_id: str) -> Generator[Passed, None, Receipt]:
    with _Check("canonical form"):
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
    with _Check("price hash"):
        said = json.loads(document).get("price_sha256")
        if receipt.version > 1 and said != price_sha256(receipt.facts.price):
            raise ValueError(f"the receipt says {said}, its price snapshot has {price_sha256(receipt.facts.price)}")
    yield Passed("price hash", said or "receipts of version 1 have none")
    with _Check("charge"):
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


def _check_log(evidence: Evidence, keys: PublicKeys) -> Iterator[Passed]:
    bundle = evidence.bundle
    inclusion, leaf = bundle["inclusion"], leaf_hash(bundle["jws"].encode())
    yield Passed("leaf hash", leaf.hex())
    with _Check("checkpoint signature"):
        kid, statement = verify_checkpoint(bundle["checkpoint"], keys)
    yield Passed("checkpoint signature", f"{statement.origin} of {statement.size} receipts is signed with {kid}")
    with _Check("inclusion"):
        index, size, hashes = inclusion["leaf_index"], inclusion["tree_size"], _hashes(inclusion["hashes"])
        if size != statement.size:
            raise ValueError(f"the proof is for {size} receipts, the checkpoint for {statement.size}")
        if not verify_inclusion(leaf, index, size, hashes, statement.root_hash):
            raise ValueError(f"the proof does not lead from this receipt as leaf {index} to the checkpoint's root")
    yield Passed("inclusion", f"leaf {index} of {size}, by {len(hashes)} hashes")
    proof = evidence.consistency or bundle.get("consistency")
    if evidence.pinned is None:
        if proof is not None:
            raise VerificationError("consistency", "there is a consistency proof, but no --checkpoint that it is for")
        yield Passed("consistency", "no earlier checkpoint was given (--checkpoint)", made=False)
        return
    with _Check("pinned checkpoint"):
        _, pinned = verify_checkpoint(evidence.pinned, keys)
        if pinned.origin != statement.origin:
            raise ValueError(f"it is of another log: {pinned.origin}")
    with _Check("consistency"):
        found = _check_consistency(pinned, statement, proof)
    yield Passed("consistency", found)


def _check_consistency(pinned: Statement, statement: Statement, proof: Mapping[str, Any] | None) -> str:
    first, second = sorted((pinned, statement), key=lambda state: state.size)
    if proof is None:
        if first.size == second.size:
            proof = {"first_size": first.size, "second_size": second.size, "hashes": []}
        elif first.size == 0:
            return "the pinned checkpoint is of the empty log, which begins every log"
        else:
            raise ValueError(
                f"no proof from {first.size} to {second.size} receipts: "
                f"ask for /v1/receipts/ID/proof?since={pinned.size}"
            )
    sizes = (proof["first_size"], proof["second_size"])
    if sizes != (first.size, second.size):
        raise ValueError(f"the proof is from {sizes[0]} to {sizes[1]}, needed is {first.size} to {second.size}")
    if not verify_consistency(*sizes, first.root_hash, second.root_hash, _hashes(proof["hashes"])):
        raise ValueError(f"the log of {first.size} receipts is not the beginning of that of {second.size}: rewritten")
    return f"the pinned log of {pinned.size} receipts and this one of {statement.size} are one log"


class _Check:
    """Turns what a check stumbles over into its failure."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        expected = (
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            RecursionError,
            LedgerError,
            InvalidSignatureError,
        )
        if isinstance(error, expected):  # the file is a stranger's: whatever it lacks is the check's failure
            raise VerificationError(self._name, str(error)) from error


def _check_form(bundle: Mapping[str, Any]) -> None:
    if not isinstance(bundle, dict) or bundle.get("object") != "receipt_proof":
        raise ValueError("not the answer of GET /v1/receipts/{id}/proof")
    if bundle.keys() - {"consistency"} != _BUNDLE:
        raise ValueError(f"its parts are {sorted(bundle)}, expected {sorted(_BUNDLE)}")
    if bundle["inclusion"].keys() != {"leaf_index", "tree_size", "hashes"} or bundle["jwks"].keys() != {"keys"}:
        raise ValueError("the inclusion proof or the keys have other parts than expected")
    for proof in (bundle.get("consistency"),) if "consistency" in bundle else ():
        _check_proof_form(proof)
    numbers = (bundle["inclusion"]["leaf_index"], bundle["inclusion"]["tree_size"])
    if any(type(number) is not int for number in numbers):
        raise ValueError("sizes are integers")


def _check_proof_form(proof: Any) -> None:
    if proof.get("object") != "consistency_proof" or proof.keys() - {"object"} != _PROOF:
        raise ValueError("not the answer of GET /v1/log/consistency")
    if any(type(proof[name]) is not int for name in ("first_size", "second_size")):
        raise ValueError("sizes are integers")


def _bundled_keys(bundle: Mapping[str, Any]) -> PublicKeys:
    return dict(public_key_from_jwk(jwk) for jwk in bundle["jwks"]["keys"])


def _origin(note: str) -> str:
    return note.partition("\n")[0]


def _hashes(encoded: Any) -> list[bytes]:
    hashes = [base64.b64decode(text, validate=True) for text in encoded]
    if any(len(item) != HASH_BYTES for item in hashes) or [base64.b64encode(h).decode() for h in hashes] != encoded:
        raise ValueError("a hash is not 32 bytes in base64")
    return hashes


def strict_json(text: str) -> Any:
    """Raises:
    ValueError: not JSON, or a name stands twice in one object.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name stands twice in one object")
        return found

    return json.loads(text, object_pairs_hook=unique)


def load(path: Path) -> str:
    """A file's text; a byte that is no UTF-8 is left for the checks to stumble over.

    Raises:
        ValueError: larger than any proof.
    """
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"{path} is larger than any proof")
    return path.read_bytes().decode(errors="surrogateescape")


def command(
    receipt: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="The answer of GET /v1/receipts/ID/proof, in a file.")
    ],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="A checkpoint kept from before (GET /v1/log/checkpoint): the log must have grown from it, or to it. "
            "The proof needs ?since=SIZE, or --consistency.",
        ),
    ] = None,
    consistency: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="The answer of GET /v1/log/consistency, for --checkpoint."),
    ] = None,
    jwks: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Believe the keys of this file only (GET /.well-known/jwks.json, fetched once over a channel that you "
            "trust).",
        ),
    ] = None,
    key: Annotated[
        list[str] | None, typer.Option(metavar="KID=X", help="Believe this key, X as in the JWKS; repeatable.")
    ] = None,
    trust_file: Annotated[
        Path, typer.Option(help="Without --jwks and --key: where the keys that each log had at first are kept.")
    ] = DEFAULT_TRUST_FILE,
) -> None:
    """Verify a receipt offline.

    A proof carries its keys, but keys that come with a receipt prove nothing. Pin them with --jwks or --key. Without
    either, those of a log that is met for the first time are believed and kept in --trust-file, and no others later:
    then the first time is the one to be sure of. Prints a line for each check and ends with 1 at the first that fails.
    """
    try:
        trust = _trust(jwks, key, trust_file)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    try:
        with _Check("form"):
            evidence = Evidence(
                strict_json(load(receipt)),
                trust,
                load(checkpoint) if checkpoint else None,
                _consistency_file(consistency),
            )
        for passed in verify(evidence):
            typer.echo(passed)
    except VerificationError as failure:
        typer.echo(f"FAILED   {failure.check}: {printable(str(failure))}")
        raise typer.Exit(1) from None
    if kept := trust.remember():
        typer.echo(f"note     {kept}")


def printable(text: str) -> str:
    """A stranger's text, safe for a terminal."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


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
    _check_proof_form(proof)
    return proof


if __name__ == "__main__":
    typer.run(command)
