"""The tail says of each leaf once what a batch made of it, or that the log has to be asked."""

from __future__ import annotations

import random
from typing import Any

import pytest

from ledger_svc.domain.book import Book
from ledger_svc.store import tail as tails
from ledger_svc.store.tail import Tail

Leaves = list[int]


def book(first: int, count: int) -> Book:
    receipts: list[Any] = list(range(first, first + count))
    return Book(log_size=first, new_receipts=receipts)


def take_in(leaves: Leaves, book: Book) -> bool:
    numbers: list[Any] = book.new_receipts
    leaves.extend(numbers)
    return len(leaves) < 8


@pytest.fixture
def tail() -> Tail[Leaves]:
    return Tail(list, take_in)


def taken(tail: Tail[Leaves], leaf: int) -> tuple[Leaves | None, int | None]:
    run, until = tail.take(leaf)
    assert run is None or (run.content == list(range(run.start, run.end)) and run.start == leaf)
    return (None if run is None else run.content), until


def test_batches_that_follow_each_other_are_one_run_until_it_has_enough(tail: Tail[Leaves]) -> None:
    for first in range(0, 12, 3):
        tail.saw(book(first, 3))
    tail.saw(book(12, 0))
    assert taken(tail, 0) == (list(range(9)), None)
    assert tail.has_runs
    assert taken(tail, 9) == ([9, 10, 11], None)
    assert taken(tail, 12) == (None, None)
    tail.saw(book(12, 1))  # not into the run that was taken
    assert taken(tail, 12) == ([12], None)


def test_what_no_batch_wrote_is_to_be_read_up_to_where_one_did(tail: Tail[Leaves]) -> None:
    tail.saw(book(0, 2))
    tail.saw(book(5, 2))
    assert taken(tail, 0) == ([0, 1], None)
    assert taken(tail, 2) == (None, 5)
    assert taken(tail, 5) == ([5, 6], None)


def test_a_run_that_was_read_in_part_is_read_to_its_end(tail: Tail[Leaves]) -> None:
    tail.saw(book(0, 4))
    assert taken(tail, 2) == (None, 4)
    tail.saw(book(4, 1))
    assert taken(tail, 4) == ([4], None)


def test_what_does_not_fit_is_to_be_read(tail: Tail[Leaves], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "MAX_RUNS", 2)
    for first in (0, 10, 20):
        tail.saw(book(first, 1))
    assert taken(tail, 0) == ([0], None)
    tail.saw(book(30, 1))
    assert taken(tail, 10) == ([10], None)
    assert taken(tail, 11) == (None, 30)


def test_a_batch_that_fails_to_be_taken_in_leaves_nothing_half() -> None:
    def add(leaves: Leaves, book: Book) -> bool:
        take_in(leaves, book)
        if book.log_size == 2:
            raise RuntimeError
        return True

    tail = Tail[Leaves](list, add)
    tail.saw(book(0, 2))
    with pytest.raises(RuntimeError):
        tail.saw(book(2, 2))
    tail.saw(book(4, 1))
    assert taken(tail, 0) == (None, 4)
    assert taken(tail, 4) == ([4], None)


def test_whoever_follows_it_has_each_leaf_once(tail: Tail[Leaves]) -> None:
    draw, size, seen = random.Random(1), 0, list[int]()
    for _ in range(2_000):
        count = draw.randint(0, 3)
        if draw.random() < 0.8:
            tail.saw(book(size, count))
        size += count
        if draw.random() < 0.3:
            found, until = taken(tail, len(seen))
            read = min(size, len(seen) + draw.randint(0, 9)) if until is None else until
            seen += range(len(seen), read) if found is None else found
    while len(seen) < size:
        found, until = taken(tail, len(seen))
        seen += range(len(seen), until or size) if found is None else found
    assert seen == list(range(size))
