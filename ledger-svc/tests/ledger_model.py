"""The ledger in its simplest form: a few dictionaries that say what each command has to answer.

It shares no code with the ledger beyond the values that go in. To model another command, add it to
``ledger_model_operations``, its rule to ``Model``, and a way to send it to ``ledger_model_rig``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil

from ledger_model_caps import Caps, Hold, Receipt, scopes_of
from ledger_model_operations import (
    LIMITED_KEY,
    LIMITED_TO,
    AddCredit,
    Charge,
    Correct,
    Expire,
    ExpireCredit,
    Extend,
    Name,
    OfCredit,
    OfHold,
    Operation,
    Outcome,
    Refund,
    Release,
    Reserve,
    SetCap,
    Settle,
)

INPUT_NANO_USD, OUTPUT_NANO_USD = Fraction(1_000_003, 1_000), Fraction(10_000)
"""Of a token. The first is not whole, so that roundings show."""
REPLAY = Fraction(1, 4)


@dataclass(slots=True)
class Lot:
    """A credit, and what is left of it."""

    promotional: bool
    priority: int
    expires_ms: int
    number: int
    granted: int
    left: int


@dataclass(slots=True)
class Org:
    """One organisation's money, in nano-USD."""

    revenue: int = 0
    loss: int = 0
    given_promo: int = 0
    given_paid: int = 0
    refunded: int = 0
    lots: list[Lot] = field(default_factory=list)
    holds: dict[str, Hold] = field(default_factory=dict)
    credits: dict[tuple[type[OfCredit], str], OfCredit] = field(default_factory=dict)
    corrected: dict[str, list[tuple[str, int, int]]] = field(default_factory=dict)
    """By request: name, promotional, paid of what was given back of its charge."""
    revoked: set[int] = field(default_factory=set)
    caps: Caps = field(init=False)

    def __post_init__(self) -> None:
        self.caps = Caps(self.holds)

    def open_holds(self) -> dict[str, Hold]:
        """By request, in the order in which they were made."""
        return {request: hold for request, hold in self.holds.items() if hold.state == "open"}

    def balance(self, promotional: bool) -> int:
        """What is left of credit of a kind."""
        return sum(lot.left for lot in self.lots if lot.promotional == promotional)

    def held(self, promotional: bool) -> int:
        """What open holds keep of it."""
        return sum(h.promo if promotional else h.paid for h in self.holds.values() if h.state == "open")

    def free(self, promotional: bool) -> int:
        """What they leave."""
        return self.balance(promotional) - self.held(promotional)

    def cover(self, amount: int) -> tuple[int, int, int]:
        """An amount as promotional credit, paid credit, and what neither covers."""
        from_promo = min(amount, self.free(True))
        from_paid = min(amount - from_promo, self.free(False))
        return from_promo, from_paid, amount - from_promo - from_paid

    def add(self, promotional: bool, amount: int, priority: int = 100, expires_ms: int = 0) -> None:
        """Another lot, if there is something in it."""
        if amount:
            self.lots.append(Lot(promotional, priority, expires_ms, len(self.lots), amount, amount))

    def take(self, promotional: bool, amount: int) -> None:
        """By priority, then what expires first, then the oldest."""
        for lot in self._in_order():
            if lot.promotional == promotional:
                part = min(amount, lot.left)
                lot.left -= part
                amount -= part
        assert not amount

    def expire(self, now_ms: int) -> int:
        """Takes back what is past its time and no hold counts on; first what would be spent last."""
        total = 0
        for lot in reversed(self._in_order()):
            if 0 < lot.expires_ms <= now_ms:
                part = min(lot.left, self.free(True))
                lot.left -= part
                self.given_promo += part
                total += part
        return total

    def _in_order(self) -> list[Lot]:
        return sorted(self.lots, key=lambda lot: (lot.priority, lot.expires_ms or 10**18, lot.number))


class Model:
    """Organisations, and what each command does to them at ``now_ms``."""

    def __init__(self, orgs: int) -> None:
        self.orgs = [Org() for _ in range(orgs)]
        self._holds_made = 0

    def look(self, operations: Iterable[Operation], now_ms: int) -> None:
        """What a transaction does before anything in it is decided: the first look at a bucket bounds it."""
        for operation in operations:
            org = self.orgs[operation.org]
            if isinstance(operation, SetCap):
                org.caps.look([operation.scope], now_ms)
            elif isinstance(operation, OfHold):
                hold = org.holds.get(operation.request)
                if hold is not None:
                    org.caps.look(scopes_of(hold.key), hold.made_ms)
                elif isinstance(operation, Reserve | Charge):
                    org.caps.look(scopes_of(operation.key), now_ms)

    def apply(self, operation: Operation, now_ms: int) -> Outcome:
        """What the command does and answers."""
        org = self.orgs[operation.org]
        match operation:
            case ExpireCredit():
                return Outcome("taken back", None, (org.expire(now_ms),))
            case SetCap():
                cap = (operation.scope, operation.period, operation.unit)
                return Outcome("cap", None, (org.caps.set(cap, operation.limit, now_ms), operation.limit))
            case AddCredit() | Refund() | Correct():
                return self._credit(org, operation, now_ms)
            case Reserve() | Charge():
                return self._begin(org, operation, now_ms)
            case _:
                return self._go_on(org, operation, now_ms)

    def _begin(self, org: Org, operation: Reserve | Charge, now_ms: int) -> Outcome:
        if isinstance(operation, Reserve):
            return self._reserve(org, operation, now_ms)
        return self._charge(org, operation, now_ms)

    def _go_on(self, org: Org, operation: Extend | Settle | Release | Expire, now_ms: int) -> Outcome:
        match operation:
            case Extend():
                return self._extend(org, operation, now_ms)
            case Settle():
                return self._settle(org, operation)
            case Release():
                return self._release(org, operation)
            case Expire():
                return self._expire(org, operation, now_ms)

    def due(self, now_ms: int) -> Sequence[Name]:
        """Open holds past their time, the longest overdue first."""
        found = [
            (hold.expires_ms, hold.number, (number, request))
            for number, org in enumerate(self.orgs)
            for request, hold in org.holds.items()
            if hold.state == "open" and hold.expires_ms <= now_ms
        ]
        return [name for _, _, name in sorted(found)]

    def _reserve(self, org: Org, op: Reserve, now_ms: int) -> Outcome:
        hold = org.holds.get(op.request)
        if hold is None:
            made = self._admit(org, op, (op.amount, op.tokens), now_ms, op.model)
            if isinstance(made, Outcome):
                return made
            made.expires_ms = now_ms + op.ttl_ms
            hold = org.holds[op.request] = made
        elif hold.state != "open":
            return Outcome("HoldClosed")
        elif hold.content != op:
            return Outcome("IdempotencyConflict")
        return _kept(op, hold)

    def _admit(self, org: Org, op: Reserve | Charge, size: tuple[int, int], now_ms: int, model: str) -> Hold | Outcome:
        """A new hold, which is not one of the others yet; or why there is none."""
        if op.key in org.revoked:
            return Outcome("ApiKeyRevoked")
        if op.key == LIMITED_KEY and model != LIMITED_TO:
            return Outcome("ModelNotAllowed")
        (amount, tokens), state = size, "open" if isinstance(op, Reserve) else "settled"
        org.expire(now_ms)  # and stays so, though the command be refused
        promo, paid, missing = org.cover(amount)
        if missing:
            return Outcome("InsufficientBalance")
        hold = Hold(op, self._holds_made, op.key, amount, tokens, promo, paid, now_ms, now_ms, state)
        if refused := org.caps.refusal(hold):
            return Outcome(refused[0], None, refused[1])
        org.caps.admit(hold)
        self._holds_made += 1
        return hold

    def _extend(self, org: Org, op: Extend, now_ms: int) -> Outcome:
        hold = org.holds.get(op.request)
        if hold is None:
            return Outcome("NotFound")
        if hold.state != "open":
            return Outcome("HoldClosed")
        hold.expires_ms = max(hold.expires_ms, now_ms + op.ttl_ms)
        return _kept(op, hold)

    def _settle(self, org: Org, op: Settle) -> Outcome:
        hold = org.holds.get(op.request)
        if hold is None:
            return Outcome("NotFound")
        if hold.receipt is not None:
            return _told(op, hold.receipt) if hold.receipt.content == op else Outcome("IdempotencyConflict")
        if hold.given_back:
            return Outcome("HoldClosed")
        admitted = hold.amount if hold.state == "open" else 0
        if hold.state == "open":
            hold.state = "settled"
        due = 0 if op.interrupted and not op.answer else ceil(_price(op.prompt, op.answer))
        return self._receipt(org, op, hold, (due, min(due, org.caps.room(hold, admitted))), 0)

    def _charge(self, org: Org, op: Charge, now_ms: int) -> Outcome:
        hold = org.holds.get(op.request)
        if hold is not None:
            if hold.receipt is None or hold.content != op:
                return Outcome("IdempotencyConflict")
            return _told(op, hold.receipt)
        fresh, due = ceil(_price(op.prompt, op.answer)), ceil(_price(op.prompt, op.answer) * REPLAY)
        made = self._admit(org, op, (due, 0), now_ms, LIMITED_TO)
        if isinstance(made, Outcome):
            return made
        org.holds[op.request] = made
        return self._receipt(org, op, made, (due, due), fresh - due)

    def _receipt(self, org: Org, op: Settle | Charge, hold: Hold, due: tuple[int, int], saved: int) -> Outcome:
        """``due``: all of it, and as much as caps let be charged."""
        promo, paid, _ = org.cover(due[1])
        org.take(True, promo)
        org.take(False, paid)
        absorbed = due[0] - promo - paid
        org.loss -= absorbed
        org.revenue += due[0]
        tokens = op.prompt + op.answer if isinstance(op, Settle) else 0
        hold.receipt = Receipt(op, hold.amount, promo + paid, promo, saved, absorbed, tokens)
        return _told(op, hold.receipt)

    def _release(self, org: Org, op: Release) -> Outcome:
        hold = org.holds.get(op.request)
        if hold is None:
            return Outcome("NotFound")
        if hold.receipt is not None:
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

    def _credit(self, org: Org, op: OfCredit, now_ms: int) -> Outcome:
        if isinstance(op, Correct) and not op.receipt:
            return Outcome("NotFound")
        before = org.credits.get((type(op), op.name))
        if before is not None and before != op:
            return Outcome("IdempotencyConflict")
        if before is None:
            refused = _moved(org, op, now_ms)
            if refused:
                return Outcome(refused)
            org.credits[type(op), op.name] = op
        if isinstance(op, Correct):
            back = next(back for name, *back in org.corrected[op.request] if name == op.name)
            return Outcome("correction", (op.org, op.name), tuple(back))
        return Outcome("balance")


def _moved(org: Org, op: OfCredit, now_ms: int) -> str:
    """Moves money, or says why not."""
    match op:
        case AddCredit():
            if 0 < op.expires_ms <= now_ms:
                return "InvalidRequest"
            org.add(op.promotional, op.amount, op.priority, op.expires_ms)
            org.given_promo -= op.amount if op.promotional else 0
            org.given_paid -= 0 if op.promotional else op.amount
        case Refund():
            if op.amount > org.free(False):
                return "InsufficientBalance"
            org.take(False, op.amount)
            org.refunded += op.amount
        case Correct():
            receipt, made = org.holds[op.request].receipt, org.corrected.setdefault(op.request, [])
            assert receipt is not None
            left_promo = receipt.from_promo - sum(promo for _, promo, _ in made)
            left_paid = receipt.charged - receipt.from_promo - sum(paid for _, _, paid in made)
            if op.amount > left_promo + left_paid:
                return "InvalidRequest"
            paid = min(op.amount, left_paid)
            made.append((op.name, op.amount - paid, paid))
            org.add(True, op.amount - paid)
            org.add(False, paid)
            org.revenue -= op.amount
    return ""


def _price(prompt: int, answer: int) -> Fraction:
    return prompt * INPUT_NANO_USD + answer * OUTPUT_NANO_USD


def _kept(op: Reserve | Extend, hold: Hold) -> Outcome:
    return Outcome("hold", (op.org, op.request), (hold.amount, hold.tokens, hold.promo, hold.paid, hold.expires_ms))


def _told(op: Settle | Charge, receipt: Receipt) -> Outcome:
    facts = (receipt.held, receipt.charged, receipt.saved, receipt.absorbed)
    return Outcome("receipt", (op.org, op.request), facts)
