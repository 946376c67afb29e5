"""What of a text is never read differently: code, quotations, addresses, paths, identifiers; and which texts are of
scripts that are not Latin.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

VERBATIM = re.compile(
    r"""
    (?P<fence>(?:```|~~~).*?(?:```|~~~|\Z))
  | (?P<code>`[^`]+`)
  | (?P<quote>"[^"]*"|“[^“”]*”|„[^„“”]*[“”]|«[^«»]*»|(?<!\w)'[^'\n]+'(?!\w)|(?<!\w)‘[^’\n]+’(?!\w))
  | (?P<url>(?<![\w+.-])[a-zA-Z][\w+.-]*://\S+|\bwww\.\S+)
  | (?P<email>(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+)
  | (?P<path>(?:[A-Za-z]:\\|~?/|\.{1,2}/|\\\\)[^\s,;?!]+|(?<![\w.-])[\w.-]+(?:/[\w.-]+){2,})
  | (?P<sign>[@\#]\w+|\$[A-Za-z_]\w*|(?<![\w-])--?[A-Za-z][\w-]*)
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
"""Each span that is compared to the letter. No alternative begins inside a word or scans past its own opening sign, so
that no text takes long."""

MAY_HOLD = re.compile(r"""[`"“„«‘@\#$_/\\]|\(\)|\+\+|\w\.\w|\bwww|(?<!\w)['~-]|[^\W\d_][A-Z]|\b(?=\w*\d)\w*[A-Z]|~~~""")
"""What is in each text that has such a span; a search for it alone is much quicker."""


def is_foreign(text: str) -> bool:
    """Whether a letter is of a script in which these guards can't read: any but Latin."""
    return not text.isascii() and any(
        char.isalpha() and not unicodedata.name(char, "").startswith(("LATIN", "MICRO", "FEMININE", "MASCULINE"))
        for char in text
    )


_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
_ANNOUNCES = re.compile(r"\D:|:\D|:$")


def speaks_of(prose: str, words: frozenset[str]) -> bool:
    """Whether it has one of ``words``, or a colon announces a text; a clock's stands between digits."""
    return bool(_ANNOUNCES.search(prose)) or not words.isdisjoint(_WORD.findall(prose.lower()))


MAX_CHARS = 2_000
"""The longest text that is taken apart. Two longer ones that differ anywhere seldom ask the same, and it costs time."""
OPEN, CLOSE = "\ue000", "\ue001"
"""Around the number of a span that is held; of private use, so that a text has them by malice only."""
_HELD = re.compile(f"{OPEN}(\\d+){CLOSE}")
_SPACES = re.compile(r"\s+")
_QUOTES = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"'})
_FOLDED_KINDS = ("<wide>", "<narrow>", "<noBreak>")


@dataclass(frozen=True, slots=True)
class Held:
    """``prose``: a text with a number in the place of each span that is compared to the letter; ``spans``: those."""

    prose: str
    spans: tuple[str, ...]

    def released(self, prose: str) -> str:
        """``prose`` with the spans in it again."""
        return _HELD.sub(lambda match: self.spans[int(match[1])], prose)


def hold(text: str) -> Held:
    """Takes the spans out of ``text``. In what is left quotes are straight; spans keep all but the pair of quotes."""
    spans: list[str] = []
    if not MAY_HOLD.search(text):
        return Held(text.translate(_QUOTES), ())

    def number(match: re.Match[str]) -> str:
        span = match.group()
        spans.append(f'"{span[1:-1]}"' if span[0] in "“„«" else span)
        return f"{OPEN}{len(spans) - 1}{CLOSE}"

    return Held(VERBATIM.sub(number, text).translate(_QUOTES), tuple(spans))


def fold_spaces(prose: str) -> str:
    """``prose`` trimmed, with single spaces."""
    return _SPACES.sub(" ", prose).strip()


def fold_width(text: str) -> str:
    """NFC, and letters, digits and spaces of usual width. Not all of NFKC: that makes "52" of "5²"."""
    if text.isascii():
        return text
    folded = (
        unicodedata.normalize("NFKC", char) if unicodedata.decomposition(char).startswith(_FOLDED_KINDS) else char
        for char in unicodedata.normalize("NFC", text)
    )
    return unicodedata.normalize("NFC", "".join(folded))
