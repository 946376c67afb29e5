"""What the domain's values are made with."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import pytest

from ledger_svc.domain.holds import Hold
from ledger_svc.domain.values import OfEach, lazy, value


@value(frozen=True)
class Named:
    name: str

    @lazy
    def letters(self) -> list[str]:
        return list(self.name)


def test_values_are_compared_hashed_and_replaced_by_their_fields() -> None:
    hold = Hold("h", "o", "p", "k", "r", "m", 3, 1, 2, "f", 4, 5)
    assert hold == replace(hold)
    assert len({hold, replace(hold), replace(hold, created_at_ms=6)}) == 2
    assert [field.name for field in fields(hold)][:2] == ["hold_id", "org_id"]
    with pytest.raises(AssertionError):
        replace(hold, from_paid_nano_usd=1)  # what is checked when one is made is checked still


def test_what_is_lazy_is_worked_out_once_for_each_value_and_is_no_field() -> None:
    first, second = Named("ab"), Named("ab")
    assert first.letters == ["a", "b"]
    assert first.letters is first.letters
    assert first.letters is not second.letters
    assert first == second
    assert isinstance(vars(Named)["letters"], lazy)


@dataclass(frozen=True)
class Price:
    rate: int


def test_of_each_keeps_by_which_object_it_is_and_forgets_the_oldest() -> None:
    asked: list[int] = []

    def twice(price: Price) -> int:
        asked.append(price.rate)
        if price.rate < 0:
            raise ValueError("negative")
        return 2 * price.rate

    each = OfEach(twice, at_most=2)
    prices = [Price(1), Price(1), Price(3)]
    assert [each.of(price) for price in (*prices[:2], *prices[:2])] == [2, 2, 2, 2]
    assert asked == [1, 1]
    assert (each.of(prices[2]), each.of(prices[1])) == (6, 2)
    assert asked == [1, 1, 3]
    assert each.of(prices[0]) == 2
    assert asked == [1, 1, 3, 1]
    for _ in range(2):
        with pytest.raises(ValueError, match="negative"):
            each.of(Price(-1))


def test_a_value_that_has_gone_leaves_its_place_to_no_other() -> None:
    """An id is used again once its object has gone: what is kept must keep it."""
    each: OfEach[Price, int] = OfEach(lambda price: price.rate, at_most=8)
    assert [each.of(Price(rate)) for rate in range(100)] == list(range(100))
