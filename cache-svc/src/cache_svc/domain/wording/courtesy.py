"""What is said around a question and is no part of it: greetings, "please", thanks, hesitation. At the edges alone."""

from __future__ import annotations

import re

from cache_svc.domain.wording.words import ELSEWHERE_TOO, ENGLISH_SUBJECTS, FUNCTION_WORDS, INSTRUCTIONS, OPENERS

_HESITATION = r"(?:so|um|uh|er|erm|hmm|well|ok|okay)"
_GREETING = r"(?:(?:hi|hello|hey)(?: there)?|good (?:morning|afternoon|evening)|(?:morning|afternoon|evening)(?=[,!.]))"
_EXCUSE = (
    r"(?:sorry to bother you|sorry|excuse me|sorry,? (?:quick|silly|stupid) question|(?:just )?a?(?: )?quick question)"
    r"(?:,? but|,)"
)
_BEFORE = re.compile(rf"(?:{_HESITATION},?|{_GREETING}[,!.]*|{_EXCUSE}) +(?P<next>[\w']+)", re.IGNORECASE)
_PLEASE_BEFORE = re.compile(r"please,? +(?P<next>[\w']+)", re.IGNORECASE)
_COULD_YOU = re.compile(
    r"(?:(?:could|can|would|will) you (?:please|kindly) +(?P<next>\w+)"
    r"|(?:could|can|would) you +(?P<verb>explain|describe|(?:tell|give|show) me)\b)",
    re.IGNORECASE,
)
_THANKS = (
    r"(?:many thanks|thanks(?: a lot| so much| very much| in advance)?|thank you(?: very much| so much| in advance)?)"
)
_AFTER_STOP = re.compile(rf"(?<![.?!])(?P<stop>[.?!]+) *(?:{_THANKS}|please)[.!]*$", re.IGNORECASE)
_AFTER_COMMA = re.compile(rf", *(?:please|{_THANKS})(?P<stop>[.?!]*)$", re.IGNORECASE)
_PLEASE_AFTER = re.compile(r"(?<![\w'])(?P<word>[\w']+) please(?P<stop>[.?!]*)$")  # no capital: "Yes Please" is a book
_NO_PLEASE_AFTER = FUNCTION_WORDS | {
    "to",
    "by",
    "in",
    "on",
    "from",
    "not",
    "pretty",
    "more",
    "no",
    "yes",
    "always",
    "never",
    "even",
    "really",
}
_INSIDE = re.compile(r"[.?!;] ")


def without_courtesy(text: str) -> str:
    """``text``, trimmed and with single spaces, without what is said around it; all of it where nothing is left."""
    while True:
        shorter = _without_one(text)
        if shorter == text:
            return text
        text = shorter


def _without_one(text: str) -> str:
    shorter = _from_the_front(text)
    return _from_the_end(text) if shorter == text else shorter


def _from_the_front(text: str) -> str:
    rest = text
    while match := _BEFORE.match(rest):  # of "so, um, what ..." the first goes where the second does
        filler, rest = match.group()[: -len(match["next"])].rstrip(), rest[match.start("next") :]
        if filler[-1] not in ",!." and not _is_english(rest):
            return text
        if match["next"].lower() in OPENERS | INSTRUCTIONS | {"i"}:
            return rest
    asked = _without_request(rest)
    return text if asked == rest else asked


def _is_english(text: str) -> bool:
    """Not "um was ...", "so is ...": without a comma, other languages begin so too, and mean something by it."""
    first, *following = text.split(" ", 2)
    return first.lower() not in ELSEWHERE_TOO or (bool(following) and following[0].lower() in ENGLISH_SUBJECTS)


def _without_request(text: str) -> str:
    match = _PLEASE_BEFORE.match(text)
    if match:
        return text[match.start("next") :] if match["next"].lower() in OPENERS | INSTRUCTIONS else text
    match = _COULD_YOU.match(text)
    if match and (match["verb"] or match["next"].lower() in INSTRUCTIONS):
        rest = text[match.start("verb" if match["verb"] else "next") :]
        return rest if _INSIDE.search(rest) else rest.rstrip("?")  # an instruction, no longer a question
    return text


def _from_the_end(text: str) -> str:
    for pattern in (_AFTER_STOP, _AFTER_COMMA):
        match = pattern.search(text)
        if match and match.start():
            return text[: match.start()] + match["stop"]
    match = _PLEASE_AFTER.search(text)
    if match and match["word"].lower() not in _NO_PLEASE_AFTER:
        return text[: match.end("word")] + match["stop"]
    return text
