"""Rephrasings of a text that keep what it asks for, so that its answer may be replayed for them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

_CONTRACTIONS = (
    ("What is", "What's"), ("Who is", "Who's"), ("do not", "don't"), ("does not", "doesn't"), ("must not", "mustn't"),
    ("is not", "isn't"), ("are not", "aren't"), ("I am", "I'm"), ("It is", "It's"),
)  # fmt: skip
_PARAPHRASES = (
    ("How do I ", "How can I "), ("How do I ", "What is the way to "), ("How many ", "What number of "),
    ("How much ", "What amount of "), ("Write ", "Compose "), ("List ", "Name "), ("Explain ", "Describe "),
    ("Is it legal to ", "Does the law let me "), ("Is it possible to ", "Can I "), ("Which ", "What "),
    ("Convert ", "Please work out the conversion of "), ("Why does ", "For what reason does "), ("Draft ", "Write up "),
    ("Summarise ", "Give a summary of "), ("Plan ", "Make a plan for "), ("Delete ", "Remove "), ("Add ", "Introduce "),
    ("What is the ", "Tell me the "), ("What was the ", "Tell me what the "), ("Book ", "Reserve "),
)  # fmt: skip
"""How sentences begin, and how else. `How do I` stands twice: both are made."""


def politeness(text: str) -> Iterator[str]:
    """With the words around it that people add."""
    yield f"{text} Thanks!"
    yield f"{text} Thank you."
    if not text.endswith("?"):
        yield f"Please {_small_first(text)}"
    else:
        yield f"Please tell me: {_small_first(text)}"


def greeting(text: str) -> Iterator[str]:
    """With a greeting before it."""
    yield f"Hi, {_small_first(text)}"
    yield f"Hello! {text}"


def whitespace(text: str) -> Iterator[str]:
    """With other white space."""
    yield f"{text}\n"
    yield f"  {text} "
    yield text.replace(" ", "  ", 1)


def punctuation(text: str) -> Iterator[str]:
    """With another mark at its end, or none."""
    if text[-1] in "?.":
        yield text[:-1]
        yield text + text[-1]


def letter_case(text: str) -> Iterator[str]:
    """With a small letter at its beginning."""
    small = _small_first(text)
    if small != text:
        yield small


def contraction(text: str) -> Iterator[str]:
    """With short forms."""
    for long, short in _CONTRACTIONS:
        if re.search(rf"\b{long}\b", text):
            yield re.sub(rf"\b{long}\b", short, text)


def number_form(text: str) -> Iterator[str]:
    """With a comma between thousands."""
    for found in re.finditer(r"(?<![\w.])(?!(?:19|20)\d\d\b)\d{4,}(?![\w.])", text):  # no year
        yield text[: found.start()] + f"{int(found[0]):,}" + text[found.end() :]


def paraphrase(text: str) -> Iterator[str]:
    """In other words."""
    for beginning, other in _PARAPHRASES:
        if text.startswith(beginning):
            yield other + text[len(beginning) :]


REPHRASINGS: dict[str, Callable[[str], Iterator[str]]] = {
    "politeness": politeness,
    "greeting": greeting,
    "whitespace": whitespace,
    "punctuation": punctuation,
    "letter_case": letter_case,
    "contraction": contraction,
    "number_form": number_form,
    "paraphrase": paraphrase,
}
"""By category."""


def _small_first(text: str) -> str:
    """With a small first letter, unless the first word is a name or stands in capitals."""
    first = text.split(" ", 1)[0]
    return text if first == "I" or not first.istitle() else text[0].lower() + text[1:]
