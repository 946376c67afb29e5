"""Items from a file of JSON lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import orjson

from meshkit.money import parse_usd
from tallygate_deploy.cache_safety.items import FIRST_TENANT, Asked, Item, Label

DEFAULT_MODEL = "bench/model"
"""The model of requests that name none."""

_REQUIRED = ("category", "label", "old_request", "old_answer", "new_request")
_OPTIONAL = ("id", "new_answer", "old_tenant", "new_tenant", "max_age_s", "allow_sampled", "cost_usd")
_ERRORS_SHOWN = 10


class DataError(Exception):
    """The data can't be used; the text says where and why, a line each."""


class NotAnItemError(Exception):
    """A line is not an item; the text says what is wrong with it."""


def read_items(path: Path) -> list[Item]:
    """The items of a file: a JSON object a line, empty lines left out.

    Raises:
        DataError: it can't be read, or a line is not an item. Nothing is judged then: an item left out in silence would
            make a cache look better or worse than it is.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}") from error
    items: list[Item] = []
    wrong: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            items.append(parse_item(line, default_id=f"line-{number}"))
        except NotAnItemError as error:
            wrong.append(f"{path}:{number}: {error}")
    wrong += [f"{path}: {why}" for why in contradictions(items)]
    if wrong:
        more = len(wrong) - _ERRORS_SHOWN
        raise DataError("\n".join([*wrong[:_ERRORS_SHOWN], *([f"and {more} more"] if more > 0 else [])]))
    if not items:
        raise DataError(f"{path}: no items; a line is an object with {', '.join(_REQUIRED)}")
    return items


def parse_item(line: str, *, default_id: str) -> Item:
    """The item of one line.

    Raises:
        NotAnItemError: it is not one.
    """
    try:
        fields = json.loads(line, object_pairs_hook=_without_repetition, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise NotAnItemError(f"not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise NotAnItemError("not a JSON object")
    _check_names(fields)
    label = _label(fields["label"])
    allow_sampled = _typed(fields, "allow_sampled", bool, default=False)
    old_tenant = _text(fields, "old_tenant", default=FIRST_TENANT)
    item = Item(
        id=_text(fields, "id", default=default_id),
        category=_text(fields, "category"),
        label=label,
        old=Asked(_body(fields, "old_request"), old_tenant, allow_sampled=allow_sampled),
        old_answer=_text(fields, "old_answer"),
        new=Asked(
            _body(fields, "new_request"),
            _text(fields, "new_tenant", default=old_tenant),
            max_age_s=_max_age(fields),
            allow_sampled=allow_sampled,
        ),
        new_answer=_text(fields, "new_answer", default=""),
        cost_nano_usd=_cost(fields),
    )
    if label is Label.TRAP and item.new_answer == item.old_answer:
        raise NotAnItemError(
            "a trap whose new_answer is its old_answer: then the old one may be replayed, so it is reusable"
        )
    return item


def contradictions(items: Iterable[Item]) -> list[str]:
    """What items say against each other: an id given twice, or two answers to one old request."""
    found: list[str] = []
    ids: set[str] = set()
    answers: dict[str, Item] = {}
    for item in items:
        if item.id in ids:
            found.append(f"id {item.id!r} is given twice")
        ids.add(item.id)
        first = answers.setdefault(item.old.digest(), item)
        if first.old_answer != item.old_answer:
            found.append(f"{item.id!r} has the old_request of {first.id!r} and another old_answer")
    return found


def chat_body(request: str | list[Any] | dict[str, Any]) -> bytes:
    """A body of chat/completions: a text becomes a user message at temperature 0, a list the messages."""
    if isinstance(request, str):
        request = [{"role": "user", "content": request}]
    if isinstance(request, list):
        request = {"model": DEFAULT_MODEL, "messages": request, "temperature": 0}
    return orjson.dumps({"model": DEFAULT_MODEL, **request})


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Of two values of one name, readers take the one or the other, so nobody knows what was meant.
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _check_names(fields: dict[str, Any]) -> None:
    missing = [name for name in _REQUIRED if name not in fields]
    if missing:
        raise NotAnItemError(f"{' and '.join(missing)} missing")
    unknown = sorted(fields.keys() - {*_REQUIRED, *_OPTIONAL})
    if unknown:
        raise NotAnItemError(f"unknown field {unknown[0]!r}; the fields are {', '.join((*_REQUIRED, *_OPTIONAL))}")


def _label(value: Any) -> Label:
    names = [label.value for label in Label]
    if value not in names:
        raise NotAnItemError(f"label is {value!r}, not {' or '.join(map(repr, names))}")
    return Label(value)


def _body(fields: dict[str, Any], name: str) -> bytes:
    request = fields[name]
    if not isinstance(request, str | list | dict) or not request:
        raise NotAnItemError(f"{name} is neither a text, nor a list of messages, nor a body of chat/completions")
    messages = request.get("messages") if isinstance(request, dict) else request
    if not isinstance(messages, str | list) or not messages:
        raise NotAnItemError(f"{name} has no messages")
    if isinstance(messages, list) and not all(isinstance(m, dict) and "role" in m for m in messages):
        raise NotAnItemError(f"{name}: a message is an object with a role and a content")
    if isinstance(request, dict) and not isinstance(request.get("model", ""), str):
        raise NotAnItemError(f"{name}: the model is not a text")
    try:
        return chat_body(request)
    except orjson.JSONEncodeError as error:
        raise NotAnItemError(f"{name}: {error}") from error


def _text(fields: dict[str, Any], name: str, *, default: str | None = None) -> str:
    value: str = _typed(fields, name, str, default=default)
    if not value and default is None:
        raise NotAnItemError(f"{name} is empty")
    return value


def _typed(fields: dict[str, Any], name: str, kind: type, *, default: Any) -> Any:
    value = fields.get(name, default)
    if not isinstance(value, kind):
        raise NotAnItemError(f"{name} is {value!r}, not a {kind.__name__}")
    return value


def _max_age(fields: dict[str, Any]) -> int | None:
    value = fields.get("max_age_s")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise NotAnItemError(f"max_age_s is {value!r}, not a number of seconds from 0")
    return value


def _cost(fields: dict[str, Any]) -> int | None:
    value = fields.get("cost_usd")
    if value is None:
        return None
    parse: Callable[[str], int] = parse_usd
    try:
        nano_usd = parse(value) if isinstance(value, str) else -1
    except ValueError:
        nano_usd = -1
    if nano_usd < 0:
        raise NotAnItemError(f'cost_usd is {value!r}, not dollars as a text such as "0.0021"')
    return nano_usd
