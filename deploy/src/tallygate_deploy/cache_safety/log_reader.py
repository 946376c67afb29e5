"""Recorded requests from JSON lines, as ``GET /v1/cache/recordings`` exports them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from meshkit.money import USAGE_CLASSES, Provenance, Usage, parse_usd

OBJECT, SUMMARY = "cache.recording", "export.summary"
SERVED_MODES = ("fresh", "exact", "canonical", "semantic")
_CACHE_MODES = ("default", "off", "refresh", "only")
_PROVENANCES = {kind.name.lower(): kind for kind in Provenance}


class LogError(Exception):
    """The lines are not an export of recorded requests; the text says which line, and what to do."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request and its answer; fields as in the export. ``line``: where it stands, from 1 on. ``body`` and
    ``answer`` are JSON.
    """

    line: int
    asked_at_ms: int
    project_id: str
    endpoint: str
    model: str
    policy_epoch: str
    body: bytes
    cache_mode: str
    max_age_s: int | None
    allow_sampled: bool
    ttl_s: int
    share_in_org: bool
    served_mode: str
    usage: Usage
    fresh_nano_usd: int
    replay_nano_usd: int
    answer: bytes
    receipt_id: str
    origin_receipt_id: str
    source_id: str

    @property
    def name(self) -> str:
        """What the user finds it by: its receipt, or that of the answer it was given."""
        return self.receipt_id or f"replay of {self.origin_receipt_id}"


def read_log(lines: Iterable[bytes], *, from_ms: int = 0) -> Iterator[Recorded]:
    """The records that were asked at ``from_ms`` or later, in their order.

    Raises:
        LogError: a line is no record; or the last one is not the summary, or says that others are missing.
    """
    hashed, count, ended = hashlib.sha256(), 0, False
    for number, line in enumerate(lines, 1):
        if ended:
            raise LogError(f"line {number}: the export ended with the line before; keep one export in a file")
        row = _object(line, number)
        if row.get("object") == SUMMARY:
            _check_summary(row, count, hashed.hexdigest())
            ended = True
            continue
        hashed.update(line)
        count += 1
        recorded = _recorded(row, number)
        if recorded.asked_at_ms >= from_ms:
            yield recorded
    if not ended:
        raise LogError("the export was cut off: its last line, with the number of records, is missing. Export it again")


def _object(line: bytes, number: int) -> dict[str, Any]:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise LogError(f"line {number}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise LogError(f"line {number}: not a JSON object")
    return row


def _check_summary(row: dict[str, Any], count: int, sha256: str) -> None:
    if row.get("rows") != count or row.get("sha256") != sha256:
        raise LogError("the records are not those that were exported: number or SHA-256 differ. Export them again")


def _recorded(row: dict[str, Any], number: int) -> Recorded:
    if row.get("object") != OBJECT:
        raise LogError(f"line {number}: `object` is {row.get('object')!r}, not {OBJECT!r}")
    try:
        cache, usage = row["cache"], row["usage"]
        made = Recorded(
            line=number,
            asked_at_ms=_typed(row, "asked_at_ms", int),
            project_id=_typed(row, "project_id", str),
            endpoint=_typed(row, "endpoint", str),
            model=_typed(row, "model", str),
            policy_epoch=_typed(row, "policy_epoch", str),
            body=orjson.dumps(_typed(row, "body", dict)),
            cache_mode=_one_of(cache, "mode", _CACHE_MODES),
            max_age_s=None if cache["max_age_s"] is None else _typed(cache, "max_age_s", int),
            allow_sampled=_typed(cache, "allow_sampled", bool),
            ttl_s=_typed(cache, "ttl_s", int),
            share_in_org=_typed(cache, "share_in_org", bool),
            served_mode=_one_of(row, "served_mode", SERVED_MODES),
            usage=Usage(
                **{name: _typed(usage, name, int) for name in USAGE_CLASSES},
                provenance=_PROVENANCES[_one_of(usage, "provenance", tuple(_PROVENANCES))],
            ),
            fresh_nano_usd=parse_usd(_typed(row, "fresh_usd", str)),
            replay_nano_usd=parse_usd(_typed(row, "replay_usd", str)),
            answer=orjson.dumps(_typed(row, "answer", dict)),
            receipt_id=row.get("receipt_id") or "",
            origin_receipt_id=row.get("origin_receipt_id") or "",
            source_id=row.get("source_id") or "",
        )
    except KeyError as error:
        raise LogError(f"line {number}: {error} is missing") from error
    except (TypeError, ValueError) as error:
        raise LogError(f"line {number}: {error}") from error
    if not made.receipt_id and not made.origin_receipt_id:
        raise LogError(f"line {number}: neither `receipt_id` nor `origin_receipt_id` is given")
    return made


def _typed(row: dict[str, Any], name: str, kind: type) -> Any:
    value = row[name]
    if type(value) is not kind:
        raise TypeError(f"`{name}` is {type(value).__name__}, not {kind.__name__}")
    return value


def _one_of(row: dict[str, Any], name: str, values: tuple[str, ...]) -> str:
    value = row[name]
    if value not in values:
        raise ValueError(f"`{name}` is {value!r}, not one of {', '.join(values)}")
    return str(value)
