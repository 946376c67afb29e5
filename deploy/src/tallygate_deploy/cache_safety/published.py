"""Items from the data of the package `fow-cache`: pairs of questions, and pairs of conversations.

Its code is not used. It comes with the extra `cache-safety`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from tallygate_deploy.cache_safety.items import Asked, Item, Label, made_up_answer
from tallygate_deploy.cache_safety.reading import DataError, chat_body

PACKAGE = "fow-cache"
ATTRIBUTION = (
    "fow-cache benchmark data, Copyright (c) 2026 Mabon ap Gwyn, https://github.com/Maby0/fow-cache, licensed under "
    "CC BY 4.0, https://creativecommons.org/licenses/by/4.0/. Changes: pairs became chat requests with made-up "
    "answers, categories were renamed, and pairs that are marked as ambiguous were left out."
)
"""What the licence asks to be shown wherever the data is used."""

_CATEGORIES = {
    "negation": "polarity",
    "entity_swap": "entity",
    "number_date": "number",
    "scope": "scope",
    "context_swap": "ellipsis",
    "detail_swap": "ellipsis",
    "intent_flip": "ellipsis",
    "irrelevant_history": "conversation",
    "same_context_reworded": "conversation",
    "same_context_extra_chatter": "conversation",
}
"""Their names for what ours are; a category that is not here keeps its name."""


def published_items() -> list[Item]:
    """The items, in the order of the files.

    Raises:
        DataError: the package is not installed, or holds something else than it did.
    """
    try:
        return list(_items(_data_files()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"the data of {PACKAGE} {metadata.version(PACKAGE)} can't be read: {error}") from error


def _data_files() -> list[Path]:
    """Found in the package's list of files, without an import of its code.

    Raises:
        DataError: there are none.
    """
    try:
        listed = metadata.distribution(PACKAGE).files or []
    except metadata.PackageNotFoundError as error:
        raise DataError(
            f"the package {PACKAGE} is not installed; it comes with `pip install tallygate[cache-safety]`"
        ) from error
    paths = sorted(Path(str(file.locate())) for file in listed if str(file).endswith(".jsonl"))
    if not paths:
        raise DataError(f"the package {PACKAGE} holds no data")
    return paths


def _items(paths: list[Path]) -> Iterator[Item]:
    seen: set[str] = set()
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            pair = json.loads(line)
            if "ambiguous" in pair:
                continue  # whether its answer is the same depends on an application that is not here
            item = _item(pair)
            if item.new.body != item.old.body and item.old.digest() + item.new.digest() not in seen:
                seen.add(item.old.digest() + item.new.digest())
                yield item


def _item(pair: dict[str, Any]) -> Item:
    old, new = Asked(chat_body(pair["a"])), Asked(chat_body(pair["b"]))
    theirs = pair.get("category") or pair["subtype"]
    return Item(
        id=f"fow-cache/{pair['id']}",
        category=_CATEGORIES.get(theirs, theirs),
        label=Label.REUSABLE if pair["same_answer"] else Label.TRAP,
        old=old,
        old_answer=made_up_answer(old),
        new=new,
    )
