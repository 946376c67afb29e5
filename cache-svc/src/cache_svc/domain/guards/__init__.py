"""What keeps two texts apart, whatever else says that they mean the same: a number, a unit, a date, a "not", a name,
an order, an identifier. The upper tiers ask here before they replay. A guard that is unsure keeps apart: a miss costs
money, a wrong replay costs trust.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import lru_cache

import orjson

from cache_svc.domain.guards.reading import Reading, content, read
from cache_svc.domain.guards.words import NEGATIVE_PREFIXES
from cache_svc.domain.wording.verbatim import MAX_CHARS

_SAME_IN_ORDER = {
    "verbatim": "code, a quotation, an address or an identifier differs",
    "quantities": "a number or a unit differs",
    "times": "a date or a time differs",
    "names": "a name differs",
    "directions": "a word of direction or order differs",
    "languages": "a language differs",
    "formats": "the form of the answer differs",
    "marks": "a sign differs",
}
_SAME_IN_ANY_ORDER = {
    "negations": "a negation differs",
    "poles": "a word with an opposite differs",
    "asks": "the kind of question differs",
}
_FEW_WORDS = 2
_read = lru_cache(maxsize=256)(read)
"""What is asked is compared with several kept texts, and those are asked for again: a reading costs 0.1 ms and more."""


def why_apart(kept: str, asked: str) -> str:
    """In words, what keeps the answer to ``kept`` from answering ``asked``; empty where the guards see no difference
    that matters. It is no statement that the two mean the same. Symmetric.
    """
    if kept == asked:
        return ""
    if max(len(kept), len(asked)) > MAX_CHARS:
        return "longer than the guards read"
    one, other = _read(kept), _read(asked)
    if one.literal or other.literal:
        return "" if one.literal == other.literal else "a script or a task in which every character counts"
    for name, why in _SAME_IN_ORDER.items():
        if getattr(one, name) != getattr(other, name):
            return why
    for name, why in _SAME_IN_ANY_ORDER.items():
        if Counter(getattr(one, name)) != Counter(getattr(other, name)):
            return why
    return _by_words(one, other)


def signature(text: str) -> bytes:
    """SHA-256 of what the guards want the same in two texts. Another signature: they keep the two apart. The same one
    says nothing, for they compare the words too.
    """
    if len(text) > MAX_CHARS:
        return hashlib.sha256(text.encode()).digest()
    reading = _read(text)
    in_order = [list(getattr(reading, name)) for name in _SAME_IN_ORDER]
    in_any_order = [sorted(getattr(reading, name)) for name in _SAME_IN_ANY_ORDER]
    what = [reading.literal] if reading.literal else [in_order, in_any_order]
    return hashlib.sha256(orjson.dumps(what)).digest()


def _by_words(one: Reading, other: Reading) -> str:
    ours, theirs = content(one.words), content(other.words)
    only_ours, only_theirs = Counter(ours) - Counter(theirs), Counter(theirs) - Counter(ours)
    if _prefixed(only_ours, only_theirs) or _prefixed(only_theirs, only_ours):
        return "a word stands with and without a prefix that turns it round"
    common = Counter(ours) & Counter(theirs)
    if [word for word in ours if word in common] != [word for word in theirs if word in common]:
        return "the same words stand in another order"
    few = max(only_ours.total(), only_theirs.total()) <= _FEW_WORDS
    if few and only_ours.total() + only_theirs.total() and common:
        return "the same but for a word or two"
    return ""


def _prefixed(some: Counter[str], others: Counter[str]) -> bool:
    return any(prefix + word in others for word in some for prefix in NEGATIVE_PREFIXES)
