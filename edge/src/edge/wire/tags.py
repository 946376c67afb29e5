"""The client's names for a request, by which its usage is found: ``metadata`` of the body, as in OpenAI's API
(https://platform.openai.com/docs/api-reference/chat/create, "metadata"), and the header ``X-Tallygate-Tags``, as in
``X-Tallygate-Tags: team=search, env=prod``, which wins where both have a key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from edge.errors import invalid
from edge.wire.header_lines import HeaderLines
from meshkit.errors import MeshError

HEADER = "X-Tallygate-Tags"
_NAME = HEADER.lower().encode()
MAX_TAGS = 16
MAX_KEY_CHARS = 64
MAX_VALUE_CHARS = 512

_REFUSED = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_BEYOND = re.compile(r"[\U00010000-\U0010ffff]")
"""In a key: there its order would depend on whether one counts in UTF-8 or, as receipts do, in UTF-16."""


def check_metadata(name: str, value: object) -> None:
    """Refuses what is not an object of at most 16 strings.

    Raises:
        MeshError: INVALID_REQUEST.
    """
    if not isinstance(value, dict):
        raise invalid(f"`{name}` must be an object of strings.", name)
    if len(value) > MAX_TAGS:
        raise invalid(f"`{name}` has {len(value)} entries; at most {MAX_TAGS} are allowed.", name)
    for key, text in value.items():
        if not isinstance(text, str):
            raise invalid(f"`{name}.{key[:MAX_KEY_CHARS]}` must be a string.", name)
        _check(f"`{name}`", key, text, name)


def tags_of(metadata: Mapping[str, str], lines: HeaderLines) -> dict[str, str]:
    """All tags of a request whose ``metadata`` was checked.

    Raises:
        MeshError: INVALID_REQUEST for a header that is not KEY=VALUE, KEY=VALUE, or for too many.
    """
    if _NAME not in lines:
        return dict(metadata)
    tags = {**metadata, **_parsed(lines.as_list(_NAME))}
    if len(tags) > MAX_TAGS:
        raise invalid(f"`metadata` and {HEADER} have {len(tags)} tags together; at most {MAX_TAGS} are allowed.")
    return tags


def _parsed(value: str) -> dict[str, str]:
    tags: dict[str, str] = {}
    for part in value.split(","):
        if not part.strip():
            continue
        key, equals, text = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise invalid(f"{HEADER} takes KEY=VALUE pairs with commas between, not {part.strip()[:40]!r}.")
        if key in tags:
            raise invalid(f"{HEADER} has the tag {key[:40]!r} twice.")
        _check(HEADER, key, text, None)
        tags[key] = text
    return tags


def _check(where: str, key: str, text: str, param: str | None) -> None:
    if error := _wrong(where, key, text, param):
        raise error


def _wrong(where: str, key: str, text: str, param: str | None) -> MeshError | None:
    if not 1 <= len(key) <= MAX_KEY_CHARS:
        return invalid(f"{where}: a key has 1 to {MAX_KEY_CHARS} characters, {key[:40]!r} has {len(key)}.", param)
    if len(text) > MAX_VALUE_CHARS:
        return invalid(f"{where}: the value of {key!r} has {len(text)} characters; at most {MAX_VALUE_CHARS}.", param)
    if _REFUSED.search(key) or _REFUSED.search(text):
        return invalid(f"{where}: {key[:40]!r} must not contain control characters.", param)
    if _BEYOND.search(key):
        return invalid(f"{where}: the key {key[:40]!r} must not contain characters beyond U+FFFF.", param)
    return None
