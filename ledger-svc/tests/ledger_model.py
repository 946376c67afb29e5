"""The ledger in its simplest form: a few dictionaries that say what each command has to answer.

It shares no code with the ledger beyond the values that go in. To model another command, add its rule to ``Model``, and
a way to send it to ``ledger_model_rig``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from typing import Any

INPUT_NANO_USD, OUTPUT_NANO_USD = Fraction(1_000_003, 1_000), Fraction(10_000)
"""Of a token. The first is not whole, so that roundings show."""
REPLAY = Fraction(1, 4)

KEYS, LIMITED_KEY, LIMITED_TO = 3, 1, "gpt-x"
"""Keys of an organisation, and the one of them that may use one model only."""

Name = tuple[int, str]
"""(organisation, request), or (organisation, credit)."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command ends with: the name of its refusal, or of what it gives and the facts of that."""

    word: str
    name: Name | None = None
    facts: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Reserve:
    org: int
    request: str
    key: int
    amount: int
    ttl_ms: int
    model: str


@dataclass(frozen=True, slots=True)
class Settle:
    org: int
    request: str
    prompt: int
    answer: int
    interrupted: bool


@dataclass(frozen=True, slots=True)
class Release:
    org: int
    request: str
    reason: str


@dataclass(frozen=True, slots=True)
class Charge:
    org: int
    request: str
    key: int
    prompt: int
    answer: int


@dataclass(frozen=True, slots=True)
class Expire:
    org: int
    request: str


@dataclass(frozen=True, slots=True)
class AddCredit:
    org: int
    name: str
    amount: int
    promotional: bool


Operation = Reserve | Settle | Release | Charge | Expire | AddCredit


@dataclass(slots=True)
class Hold:
    content: Operation
    amount: int
    promo: int
    paid: int
    expires_ms: int
    state: str = "open"
    given_back: bool = False


@dataclass(frozen=True, slots=True)
class Receipt:
    content: Operation
    held: int
    charged: int
    saved: int
    absorbed: int


@dataclass(slots=True)
class Org:
    """One organisation's money, in nano-USD."""

    promo: int = 0
    paid: int = 0
    revenue: int = 0
    loss: int = 0
    given_promo: int = 0
    given_paid: int = 0
    holds: dict[str, Hold] = field(default_factory=dict)
    receipts: dict[str, Receipt] = field(default_factory=dict)
    credits: dict[str, AddCredit] = field(default_factory=dict)
    revoked: set[int] = field(default_factory=set)

    def free(self) -> tuple[int, int]:
        """Promotional and paid credit that no open hold keeps."""
        held = [hold for hold in self.holds.values() if hold.state == "open"]
        return self.promo - sum(hold.promo for hold in held), self.paid - sum(hold.paid for hold in held)

    def cover(self, amount: int) -> tuple[int, int, int]:
        """An amount as promotional credit, paid credit, and what neither covers."""
        promo, paid = self.free()
        from_promo = min(amount, promo)
        from_paid = min(amount - from_promo, paid)
        return from_promo, from_paid, amount - from_promo - from_paid


class Model:
    """Organisations, and what each command does to them at ``now_ms``."""

    def __init__(self, orgs: int) -> None:
        self.orgs = [Org() for _ in range(orgs)]

    def apply(self, operation: Operation, now_ms: int) -> Outcome:
        """What the command does and answers."""
        org = self.orgs[operation.org]
        match operation:
            case Reserve():
                return self._reserve(org, operation, now_ms)
            case Settle():
                return self._settle(org, operation)
            case Release():
                return self._release(org, operation)
            case Charge():
                return self._charge(org, operation)
            case Expire():
                return self._expire(org, operation, now_ms)
            case AddCredit():
                return self._credit(org, operation)

    def due(self, now_ms: int) -> list[Name]:
        """Open holds past their time."""
        return [
            (number, request)
            for number, org in enumerate(self.orgs)
            for request, hold in org.holds.items()
            if hold.state == "open" and hold.expires_ms <= now_ms
        ]

    def _reserve(self, org: Org, op: Reserve, now_ms: int) -> Outcome:
        hold = org.holds.get(op.request)
        if hold is None:
            if refused := _refused_key(org, op.key, op.model):
                return Outcome(refused)
            promo, paid, missing = org.cover(op.amount)
            if missing:
                return Outcome("InsufficientBalance")
            hold = org.holds[op.request] = Hold(op, op.amount, promo, paid, now_ms + op.ttl_ms)
        elif hold.state != "open":
            return Outcome("HoldClosed")
        elif hold.content != op:
            return Outcome("IdempotencyConflict")
        return Outcome("hold", (op.org, op.request), (hold.amount, hold.promo, hold.paid, hold.expires_ms))

    def _settle(self, org: Org, op: Settle) -> Outcome:
        hold, receipt = org.holds.get(op.request), org.receipts.get(op.request)
        if hold is None:
            return Outcome("NotFound")
        if receipt is not None:
            return _told(op, receipt) if receipt.content == op else Outcome("IdempotencyConflict")
        if hold.given_back:
            return Outcome("HoldClosed")
        if hold.state == "open":
            hold.state = "settled"
        due = 0 if op.interrupted and not op.answer else _price(op.prompt, op.answer)
        return self._receipt(org, op, hold.amount, ceil(due), 0)

    def _charge(self, org: Org, op: Charge) -> Outcome:
        hold = org.holds.get(op.request)
        if hold is not None:
            return _told(op, org.receipts[op.request]) if hold.content == op else Outcome("IdempotencyConflict")
        if refused := _refused_key(org, op.key, LIMITED_TO):
            return Outcome(refused)
        fresh, due = ceil(_price(op.prompt, op.answer)), ceil(_price(op.prompt, op.answer) * REPLAY)
        promo, paid, missing = org.cover(due)
        if missing:
            return Outcome("InsufficientBalance")
        org.holds[op.request] = Hold(op, due, promo, paid, 0, "settled")
        return self._receipt(org, op, due, due, fresh - due)

    def _receipt(self, org: Org, op: Settle | Charge, held: int, due: int, saved: int) -> Outcome:
        promo, paid, uncovered = org.cover(due)
        org.promo -= promo
        org.paid -= paid
        org.loss -= uncovered
        org.revenue += due
        receipt = org.receipts[op.request] = Receipt(op, held, promo + paid, saved, uncovered)
        return _told(op, receipt)

    def _release(self, org: Org, op: Release) -> Outcome:
        hold = org.holds.get(op.request)
        if hold is None:
            return Outcome("NotFound")
        if op.request in org.receipts:
            return Outcome("HoldClosed")
        if hold.state == "open":
            hold.state = "released"
        hold.given_back = True
        return Outcome("released", None, (hold.amount,))

    def _expire(self, org: Org, op: Expire, now_ms: int) -> Outcome:
        ends = (op.org, op.request) in self.due(now_ms)
        if ends:
            org.holds[op.request].state = "expired"
        return Outcome("expired", None, (ends,))

    def _credit(self, org: Org, op: AddCredit) -> Outcome:
        if op.name in org.credits:
            return Outcome("credited" if org.credits[op.name] == op else "IdempotencyConflict")
        org.credits[op.name] = op
        if op.promotional:
            org.promo += op.amount
            org.given_promo -= op.amount
        else:
            org.paid += op.amount
            org.given_paid -= op.amount
        return Outcome("credited")


def _refused_key(org: Org, key: int, model: str) -> str:
    if key in org.revoked:
        return "ApiKeyRevoked"
    return "ModelNotAllowed" if key == LIMITED_KEY and model != LIMITED_TO else ""


def _price(prompt: int, answer: int) -> Fraction:
    return prompt * INPUT_NANO_USD + answer * OUTPUT_NANO_USD


def _told(op: Settle | Charge, receipt: Receipt) -> Outcome:
    facts = (receipt.held, receipt.charged, receipt.saved, receipt.absorbed)
    return Outcome("receipt", (op.org, op.request), facts)
