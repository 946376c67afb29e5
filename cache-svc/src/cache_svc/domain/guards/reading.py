"""A text as the guards read it: what of it must not be different in another text that means the same."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cache_svc.domain.guards import words as known
from cache_svc.domain.wording.courtesy import without_courtesy
from cache_svc.domain.wording.verbatim import CLOSE, OPEN, Held, fold_spaces, fold_width, hold, is_foreign, speaks_of
from cache_svc.domain.wording.words import (
    CONTRACTIONS,
    FIRST_PERSON,
    FUNCTION_WORDS,
    NAMES_IN_ANY_CASE,
    STARTERS,
    WORKS_ON_TEXT,
)

_TOKEN = re.compile(
    r"(?P<number>(?<![\w.])[+\-−–]?\d+(?:[.,:/\-–]\d+)*)|(?P<word>[^\W\d_]+(?:['.\-][^\W\d_]+)*)|(?P<mark>[^\w\s])"
)
_GROUPED = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_MEANS_LITTLE = frozenset(f".,?!;'{OPEN}{CLOSE}")
_ENDS = frozenset(".?!:;…\n")


@dataclass(frozen=True, slots=True)
class Reading:
    """``literal``: the text itself where it is of a script that is not Latin, or has something done with a text; of the
    first its whitespace is folded. ``verbatim``: code, quotations,
    addresses, paths and identifiers. ``quantities``: numbers with their units. ``names``: words with a capital that no
    sentence begins with. Tuples are in the order of the text; ``words`` has all words in lower case.
    """

    literal: str
    verbatim: tuple[str, ...]
    quantities: tuple[str, ...]
    times: tuple[str, ...]
    negations: tuple[str, ...]
    poles: tuple[str, ...]
    directions: tuple[str, ...]
    languages: tuple[str, ...]
    formats: tuple[str, ...]
    asks: tuple[str, ...]
    marks: tuple[str, ...]
    names: tuple[str, ...]
    words: tuple[str, ...]


def read(text: str) -> Reading:
    """Reads ``text``."""
    text = fold_width(text)
    held = hold(text)
    words, names, numbers, marks = _walk(without_courtesy(fold_spaces(held.prose)))
    lower = tuple(words)
    return Reading(
        literal=_literal(text, held),
        verbatim=held.spans,
        quantities=tuple(numbers),
        times=tuple(_singular(word) for word in lower if word in known.TIMES),
        negations=tuple("not" if _negates(word) else "" for word in lower if _negates(word)),
        poles=tuple(word for word in lower if word in known.POLES),
        directions=tuple(word for word in lower if word in known.DIRECTIONS),
        languages=tuple(word for word in lower if word in known.LANGUAGES),
        formats=tuple(_singular(word) for word in lower if word in known.FORMATS),
        asks=_asks(lower),
        marks=tuple(marks),
        names=tuple(names),
        words=lower,
    )


def _literal(text: str, held: Held) -> str:
    if OPEN in text or CLOSE in text or speaks_of(held.prose, WORKS_ON_TEXT):
        return text
    if not is_foreign(text):
        return ""
    return text if held.spans else fold_spaces(text)


def content(words: tuple[str, ...]) -> tuple[str, ...]:
    """The words that carry the meaning."""
    return tuple(word for word in words if word not in FUNCTION_WORDS)


def _walk(prose: str) -> tuple[list[str], list[str], list[str], list[str]]:
    words: list[str] = []
    names: list[str] = []
    numbers: list[str] = []
    marks: list[str] = []
    begins, after_number = True, False
    for match in _TOKEN.finditer(prose):
        token = match.group()
        if match.lastgroup == "number":
            numbers.append(_value(token))
            begins, after_number = False, True
            continue
        if match.lastgroup == "mark":
            if token in known.UNITS:
                numbers.append(token)
            elif token not in _MEANS_LITTLE:
                marks.append(token)
            begins = begins or token in _ENDS
            continue
        word = token.lower()
        if word in known.NUMBER_WORDS:
            numbers.append(known.NUMBER_WORDS[word])
        elif after_number and word in known.UNITS:
            numbers.append(_singular(word))
        if word in NAMES_IN_ANY_CASE:
            names.append(word)
        elif _is_name(token, word, begins=begins):
            names.append(token)
        words += CONTRACTIONS.get(word, word).split()
        begins, after_number = False, word in known.NUMBER_WORDS
    return words, names, numbers, marks


def _is_name(token: str, word: str, *, begins: bool) -> bool:
    if token == word or word in FIRST_PERSON:
        return False
    return not begins or token != word.capitalize() or word not in FUNCTION_WORDS | STARTERS


def _value(token: str) -> str:
    token = token.replace("−", "-").replace("–", "-")
    return token.replace(",", "") if _GROUPED.fullmatch(token) else token


def _singular(word: str) -> str:
    return word[:-1] if word.endswith("s") and len(word) > 3 and not word.endswith("ss") else word


def _negates(word: str) -> bool:
    return word in known.NEGATIONS or word.endswith("n't") or word.startswith("non-")


def _asks(words: tuple[str, ...]) -> tuple[str, ...]:
    found = []
    for index, word in enumerate(words):
        asked = word.split("'")[0]
        if asked in known.QUESTION_WORDS:
            following = words[index + 1] if index + 1 < len(words) else ""
            found.append(f"how {following}" if asked == "how" and following in known.HOW else asked)
    return tuple(sorted(found))
