"""The end of the log, as this process wrote it: what the newest batches gave it, kept until the tasks that go through
the log come for it, so that they need not read back what was in memory a moment before.

It is a help and no truth. Runs are of leaves without a gap; where one does not begin at the leaf that is asked for
(after a start, a takeover, a COMMIT in doubt, a leaf that no batch wrote, a run that was full) the caller reads the log
up to where the tail goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from ledger_svc.domain.book import Book

S = TypeVar("S")

MAX_LEAVES = 4_096
"""Of a run: what takes one takes it in one piece."""
MAX_RUNS = 32
"""What comes then is read from the log when its turn comes."""


@dataclass(slots=True)
class Run(Generic[S]):
    """What the leaves from ``start`` on, and before ``end``, are made into."""

    start: int
    end: int
    content: S


class Tail(Generic[S]):
    """Runs, oldest first. ``new``: the content of an empty run. ``add``: takes in what a batch wrote; False: the run
    has enough, and the next batch begins another.
    """

    def __init__(self, new: Callable[[], S], add: Callable[[S, Book], bool]) -> None:
        self._new = new
        self._add = add
        self._runs: deque[Run[S]] = deque()
        self._is_open = False

    @property
    def has_runs(self) -> bool:
        """Whether anything is kept."""
        return bool(self._runs)

    def saw(self, book: Book) -> None:
        """Takes in what a batch of the writer's wrote, which is durable."""
        assert book.log_size is not None, "the writer knows the log's size"
        end = book.log_size + len(book.new_receipts) + len(book.new_entries)
        if end == book.log_size:
            return
        if not (self._is_open and self._runs and self._runs[-1].end == book.log_size):
            if len(self._runs) >= MAX_RUNS:
                return
            self._runs.append(Run(book.log_size, book.log_size, self._new()))
        run, self._is_open = self._runs[-1], False
        try:
            has_room = self._add(run.content, book)
        except BaseException:
            self._runs.pop()  # it may have half of the batch
            raise
        run.end = end
        self._is_open = has_room and end - run.start < MAX_LEAVES

    def take(self, leaf: int) -> tuple[Run[S] | None, int | None]:
        """The run that begins at a leaf, which is the caller's from now on; or up to which leaf the log has to be read
        from there (None: all that it has). What is before the leaf is forgotten.
        """
        while self._runs and self._runs[0].end <= leaf:
            self._runs.popleft()
        if not self._runs:
            return None, None
        if self._runs[0].start > leaf:
            return None, self._runs[0].start
        self._is_open = self._is_open and len(self._runs) > 1
        run = self._runs.popleft()
        return (run, None) if run.start == leaf else (None, run.end)
