"""The normal form of a question: what is left of it when all is taken away that changes no answer.

Plain prose in Latin script, in one paragraph, loses courtesy at its edges, contractions, the end's punctuation, the
commas of thousands, and capitals that mean nothing. Of other scripts the width of characters and runs of spaces are
folded. Anything else is its own form: more lines than one, signs of code or mathematics, or a text that speaks about
text. Inside quotations and backticks nothing changes. A rule that is missing costs a miss; so the rules are few.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cache_svc.domain.wording import words as known
from cache_svc.domain.wording.courtesy import without_courtesy
from cache_svc.domain.wording.verbatim import (
    CLOSE,
    MAX_CHARS,
    OPEN,
    fold_spaces,
    fold_width,
    hold,
    is_foreign,
    speaks_of,
)

_PLAIN = re.compile(rf"[\w .,?!;'()%°$€£&/:\-–{OPEN}{CLOSE}]+")
_LOOSE_QUOTE = re.compile(r"(?<![^\W\d_])'|'(?![^\W\d_])")
"""One that no pair closed, or a plural's: which is not told."""
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
_GROUPED = re.compile(r"(?<![^\s$€£])\d{1,3}(?:,\d{3})+(?:\.\d+)?(?=%?[?!;]?(?:\s|$)|[.,](?:\s|$))")


_ENDINGS = frozenset(f")%°{CLOSE}")
_JOINS = frozenset(f"/&-–'.{OPEN}{CLOSE}")


@dataclass(frozen=True, slots=True)
class NormalForm:
    """``plain``: of a text that may be worded otherwise; if not, only the text itself is the same."""

    plain: bool
    text: str


def normal_form(text: str) -> NormalForm:
    """The form of ``text``. Idempotent."""
    folded = fold_width(text).strip()
    if len(text) > MAX_CHARS or OPEN in text or CLOSE in text or not folded.isprintable():
        return NormalForm(False, text)
    held = hold(folded)
    if is_foreign(folded):
        about_width = any(sign in folded.lower() for sign in known.ABOUT_WIDTH)
        return NormalForm(False, text) if held.spans or about_width else NormalForm(True, fold_spaces(folded))
    prose = fold_spaces(held.prose)
    if not _PLAIN.fullmatch(prose) or _LOOSE_QUOTE.search(prose) or speaks_of(prose, known.ABOUT_TEXT):
        return NormalForm(False, text)
    prose = _GROUPED.sub(lambda match: match.group().replace(",", ""), prose)
    while (shorter := _reworded(without_courtesy(prose))) != prose:
        prose = shorter  # what has lost its stop may end in a courtesy
    return NormalForm(True, held.released(prose))


def _reworded(prose: str) -> str:
    """Capitals folded where they mean nothing, contractions written out, the end without its stop."""
    parts: list[str] = []
    end = 0
    for match in _WORD.finditer(prose):
        word, between = match.group(), prose[end : match.start()]
        begins = not match.start() or between.rstrip().endswith((".", "?", "!"))
        start, end = match.span()
        joined = (start and prose[start - 1] in _JOINS) or prose[end : end + 1] in _JOINS
        parts += [between, word if joined else _worded(word, begins=begins)]
    return _without_stop("".join(parts) + prose[end:])


def _worded(word: str, *, begins: bool) -> str:
    lower = word.lower()
    any_case = lower in known.NAMES_IN_ANY_CASE or lower in known.FIRST_PERSON
    if word != lower and not any_case and not (begins and word == lower.capitalize() and lower in known.STARTERS):
        return word
    return known.CONTRACTIONS.get(lower, lower)


def _without_stop(prose: str) -> str:
    """Without the last stop: a "?" only of what is a question by its first words, a "!" not of a number."""
    kept = prose.rstrip(" .?!")
    stop = prose[len(kept) :].replace(" ", "")
    if not stop or not kept or "..." in stop:
        return prose
    words, last = kept.split(" ", 2), kept[-1]
    if "?" in stop and not _asks(words) and not (words[0] in known.INSTRUCTIONS and stop.strip("?")):
        return prose
    if ("!" in stop and last.isdigit()) or not (last.isalnum() or last in _ENDINGS):
        return prose
    abbreviated = "." in kept.rsplit(" ", 1)[-1] and stop.startswith(".")
    return prose if abbreviated else kept


def _asks(words: list[str]) -> bool:
    """Not "do it?", which is an order where it ends with another stop."""
    if words[0] in known.ORDERS_TOO:
        return len(words) > 1 and words[1] in known.SUBJECTS
    return words[0] in known.OPENERS
