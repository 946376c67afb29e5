"""A text as the guards read it: what of it must not be different in another text that means the same."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from cache_svc.domain.guards import words as known

_VERBATIM = re.compile(
    r"""
    (?P<fence>(?:```|~~~).*?(?:```|~~~|\Z))
  | (?P<code>`[^`]+`)
  | (?P<quote>"[^"]*"|“[^”]*”|„[^“”]*[“”]|«[^»]*»|(?<!\w)'[^'\n]+'(?!\w)|(?<!\w)‘[^’\n]+’(?!\w))
  | (?P<url>\b[a-zA-Z][\w+.-]*://\S+|\bwww\.\S+)
  | (?P<email>[\w.+-]+@[\w-]+(?:\.[\w-]+)+)
  | (?P<path>(?:[A-Za-z]:\\|~?/|\.{1,2}/|\\\\)[^\s,;?!]+|\b[\w.-]+(?:/[\w.-]+){2,})
  | (?P<sign>[@#$]\w+|--?[A-Za-z][\w-]*(?![\w-]))
  | (?P<identifier>
        \b\w*_\w*\b                                     # snake_case
      | \b[a-z]+[A-Z]\w*\b | \b[A-Z][a-z0-9]+[A-Z]\w*\b  # camelCase, CamelCase
      | \b[A-Za-z]\w*(?:\.[A-Za-z_]\w*)+\b(?:\(\))?      # a.b, file.py
      | \b\w+\(\)                                       # f()
      | \b(?=\w*[A-Za-z])(?=\w*\d)\w*[A-Z]\w*\b          # GPT4, H2O
      | \b[A-Za-z]\w*(?:\+\+|\#)                         # C++, C#
    )
    """,
    re.VERBOSE | re.DOTALL,
)
_NUMBER = re.compile(r"[+-]?\d[\d.,:/-]*\d|[+-]?\d")
_TOKEN = re.compile(
    r"(?P<number>(?<![\w.])[+\-−–]?\d+(?:[.,:/\-–]\d+)*)|(?P<word>[^\W\d_]+(?:['’.\-][^\W\d_]+)*)|(?P<mark>[^\w\s])"
)
_GROUPED = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_MEANS_LITTLE = frozenset(".,?!;'’\N{REPLACEMENT CHARACTER}")
_ENDS = frozenset(".?!:;…\n")


@dataclass(frozen=True, slots=True)
class Reading:
    """``foreign``: the text itself, its whitespace folded, where a script is not Latin. ``verbatim``: code, quotations,
    addresses, paths and identifiers. ``quantities``: numbers with their units. ``names``: words with a capital that no
    sentence begins with. Tuples are in the order of the text; ``words`` has all words in lower case.
    """

    foreign: str
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
    text = unicodedata.normalize("NFC", text)
    verbatim = tuple(_folded_quotes(match.group()) for match in _VERBATIM.finditer(text))
    prose = _VERBATIM.sub(" \N{REPLACEMENT CHARACTER} ", text)
    words, names, numbers, marks = _walk(prose)
    lower = tuple(words)
    return Reading(
        foreign=" ".join(text.split()) if is_foreign(text) else "",
        verbatim=verbatim,
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


def is_foreign(text: str) -> bool:
    """Whether a letter is of a script in which these guards can't read: any but Latin."""
    return not text.isascii() and any(
        char.isalpha() and not unicodedata.name(char, "").startswith(("LATIN", "MICRO", "FEMININE", "MASCULINE"))
        for char in text
    )


def content(words: tuple[str, ...]) -> tuple[str, ...]:
    """The words that carry the meaning."""
    return tuple(word for word in words if word not in known.FUNCTION_WORDS)


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
        word = token.replace("’", "'").lower()
        if word in known.NUMBER_WORDS:
            numbers.append(known.NUMBER_WORDS[word])
        elif after_number and word in known.UNITS:
            numbers.append(_singular(word))
        if _is_name(token, begins=begins):
            names.append(token.replace("’", "'"))
        words.append(word)
        begins, after_number = False, word in known.NUMBER_WORDS
    return words, names, numbers, marks


def _is_name(word: str, *, begins: bool) -> bool:
    if word == "I" or word.startswith(("I'", "I’")):
        return False
    capitals = sum(char.isupper() for char in word)
    if not capitals:
        return False
    return capitals > 1 or not begins or word.lower() not in known.FUNCTION_WORDS


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


def _folded_quotes(span: str) -> str:
    return f'"{span[1:-1]}"' if span[0] in "“„«‘'\"" else span
