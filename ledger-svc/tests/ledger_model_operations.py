"""What the ledger and the model of it can be told, in the model's words: plain values, equal if they say the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

KEYS, LIMITED_KEY, LIMITED_TO = 3, 1, "gpt-x"
"""Keys of an organisation, and the one of them that may use one model only."""
PROJECT_OF = (0, 0, 1)
"""The project of each key."""

Name = tuple[int, str]
"""(organisation, request), or (organisation, credit)."""
Scope = tuple[str, int]
"""("key", its number), ("project", its number) or ("organization", 0), in an organisation."""


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
    tokens: int
    ttl_ms: int
    model: str


@dataclass(frozen=True, slots=True)
class Extend:
    org: int
    request: str
    ttl_ms: int


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
    """``expires_ms`` 0: never; of promotional credit only."""

    org: int
    name: str
    amount: int
    promotional: bool
    priority: int = 100
    expires_ms: int = 0


@dataclass(frozen=True, slots=True)
class ExpireCredit:
    org: int


@dataclass(frozen=True, slots=True)
class Refund:
    org: int
    name: str
    amount: int
    reason: str


@dataclass(frozen=True, slots=True)
class Correct:
    """``receipt``: the id of what the request was charged with, as its sender knows it; "" where nobody was told."""

    org: int
    name: str
    request: str
    amount: int
    receipt: str = ""


@dataclass(frozen=True, slots=True)
class SetCap:
    """``limit`` -1 clears it."""

    org: int
    scope: Scope
    period: str
    unit: str
    limit: int


OfHold = Reserve | Extend | Settle | Release | Charge | Expire
OfCredit = AddCredit | Refund | Correct
Operation = OfHold | OfCredit | ExpireCredit | SetCap
