"""Questions that are asked again and again in other words: what a tier that learns can learn from.

A proof that at most 1% of the replays of one answer are wrong takes several hundred comparisons with that answer. So
each of these has many rephrasings, at least three words of which are other ones: no normal form makes two the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

_LEAST_OTHER_WORDS = 3


@dataclass(frozen=True, slots=True)
class Question:
    """``template``: with a place for each of the ``words``, whose first ones make up the question as it was answered,
    and with one for a modal verb. ``other``: one of the places, and words that ask about something else there; such a
    trap is made of one in ``one_in`` of the rephrasings.
    """

    name: str
    template: str
    words: tuple[tuple[str, ...], ...]
    modals: tuple[str, ...]
    other: tuple[int, tuple[str, ...]]
    one_in: int

    @property
    def text(self) -> str:
        """As it was answered."""
        return self.template.format(*(synonyms[0] for synonyms in self.words), modal=self.modals[0])

    def rephrasings(self) -> Iterator[str]:
        """In other words."""
        for chosen in self._choices():
            for modal in self.modals:
                yield self.template.format(*chosen, modal=modal)

    def traps(self) -> Iterator[str]:
        """In other words too, and about something else, which no rule on words can see."""
        place, others = self.other
        turns = itertools.cycle(others)
        for chosen in itertools.islice(self._choices(), 0, None, self.one_in):
            changed = [*chosen[:place], next(turns), *chosen[place + 1 :]]
            yield self.template.format(*changed, modal=self.modals[0])

    def _choices(self) -> Iterator[tuple[str, ...]]:
        for chosen in itertools.product(*self.words):
            if (
                sum(word != synonyms[0] for word, synonyms in zip(chosen, self.words, strict=True))
                >= _LEAST_OTHER_WORDS
            ):
                yield chosen


QUESTIONS = (
    Question(
        "damp-smell",
        "We run a {0} with a restaurant and a garden beside the lake, and our families {1} about the {2} {3} of the "
        "{4} in the breakfast room of the main building, so what {modal} our staff do about it?",
        (
            ("hotel", "inn", "lodge", "guesthouse"),
            ("complain", "grumble", "moan", "grouse"),
            ("damp", "moist", "humid", "clammy"),
            ("smell", "odour", "scent", "stench"),
            ("carpet", "rug", "matting", "flooring"),
        ),
        ("should", "could", "can"),
        (3, ("colour", "price")),
        1000,
    ),
    Question(
        "torn-covers",
        "Our village library lends out {0} to the neighbouring schools for a term, and many of them come home with {1} "
        "{2} and {3} {4}, so what {modal} the librarian write to the parents about it?",
        (
            ("novels", "books", "storybooks", "paperbacks"),
            ("torn", "ripped", "tattered", "shredded"),
            ("covers", "jackets", "bindings", "spines"),
            ("stained", "soiled", "smeared", "spotted"),
            ("pages", "leaves", "sheets", "paper"),
        ),
        ("should",),
        (4, ("labels", "receipts", "invitations")),
        10,
    ),
)
"""The first is seldom met by a question that only looks like it, the second often."""
