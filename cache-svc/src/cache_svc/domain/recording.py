"""Records of requests and their answers, which an organisation lets be made to measure what the cache would have saved.

A record has what a replay of the request needs, and no more: fields of the body that the cache passes over (`metadata`,
trace ids) are left out, and in place of names of end users stand digests that only tell one user from another.

Its form as bytes, one for every backend:

    magic "TGR1" | zlib of: lengths of facts, body and answer | facts (JSON) | body (JSON) | answer (JSON)
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from cache_svc.domain import canonical
from cache_svc.domain.replay import Mode, Tier
from cache_svc.domain.request import NOT_IN_KEY
from meshkit.answers.fold import fold
from meshkit.answers.joining import NotFoldable
from meshkit.money import PriceSnapshot, Provenance, Usage, charge_nano_usd

MAGIC = b"TGR1"
_LENGTHS = struct.Struct(">III")
_LEVEL = 1
"""Of zlib: it halves a conversation of 13 KB at a tenth of a millisecond; higher ones take longer for little more."""
_END_USERS = ("user", "safety_identifier")
_DIGEST_CHARS = 32


class Unfit(ValueError):
    """The request and its answer can't be recorded; the text says why, and nothing of what they say."""


@dataclass(frozen=True, slots=True)
class RecordedControls:
    """What a request asked of the cache; fields as in ``CacheControls`` of the contract."""

    mode: Mode = Mode.DEFAULT
    max_age_s: int | None = None
    allow_sampled: bool = False
    up_to: Tier = Tier.EXACT
    max_error_ppm: int | None = None
    ttl_s: int = 0
    share_in_org: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """A lookup, for the record of its answer. ``why_not_stored``: see ``Recording``."""

    at_ms: int
    controls: RecordedControls
    why_not_stored: str = ""


@dataclass(frozen=True, slots=True)
class Draft:
    """A request and its answer as they came: ``answer``, or the ``chunks`` of a stream. Other fields: ``Recording``."""

    org_id: str
    project_id: str
    endpoint: str
    model: str
    policy_epoch: str
    body: bytes
    asked: Asked
    usage: Usage
    price: PriceSnapshot
    answer: bytes = b""
    chunks: Sequence[bytes] = ()
    tier: Tier | None = None
    age_ms: int = 0
    receipt_id: str = ""
    origin_receipt_id: str = ""
    source_id: str = ""

    @property
    def size(self) -> int:
        """Bytes of request and answer."""
        return len(self.body) + len(self.answer) + sum(map(len, self.chunks))


@dataclass(frozen=True, slots=True)
class Recording:
    """A record. ``asked_at_ms``: when it was looked up. ``tier``: what replayed it; None: the answer was fresh.
    ``why_not_stored``: in words, why the fresh answer was not kept in the cache; empty where it was.

    ``fresh_nano_usd``: what the call cost that made the answer; ``replay_nano_usd``: what a replay of it costs.
    """

    asked_at_ms: int
    project_id: str
    endpoint: str
    model: str
    policy_epoch: str
    body: bytes
    controls: RecordedControls
    tier: Tier | None
    why_not_stored: str
    usage: Usage
    fresh_nano_usd: int
    replay_nano_usd: int
    answer: bytes
    receipt_id: str
    origin_receipt_id: str
    age_ms: int
    source_id: str


def record(draft: Draft) -> Recording:
    """The record of a draft.

    Raises:
        Unfit: request or answer can't be read.
    """
    return Recording(
        asked_at_ms=draft.asked.at_ms,
        project_id=draft.project_id,
        endpoint=draft.endpoint,
        model=draft.model,
        policy_epoch=draft.policy_epoch,
        body=recorded_body(draft.body, draft.org_id),
        controls=draft.asked.controls,
        tier=draft.tier,
        why_not_stored=draft.asked.why_not_stored,
        usage=draft.usage,
        fresh_nano_usd=charge_nano_usd(draft.price, draft.usage),
        replay_nano_usd=charge_nano_usd(draft.price, draft.usage, replay=True),
        answer=_answer(draft),
        receipt_id=draft.receipt_id,
        origin_receipt_id=draft.origin_receipt_id,
        age_ms=draft.age_ms,
        source_id=draft.source_id,
    )


def recorded_body(raw: bytes, org_id: str) -> bytes:
    """What of a client's body is recorded, in the client's order: the order of a schema's properties is content.

    Raises:
        Unfit: the body has no canonical form.
    """
    try:
        whole = canonical.parse_object(raw)
    except canonical.NotCanonical as error:
        raise Unfit("the request has no canonical form") from error
    body = {name: value for name, value in whole.items() if name not in NOT_IN_KEY and name != "model"}
    for name in _END_USERS:
        if body.get(name) is not None:
            body[name] = _digest_of_user(body[name], org_id)
    return orjson.dumps(body)


def _digest_of_user(user: Any, org_id: str) -> str:
    """A pseudonym: whoever guesses the name can check the guess, which its organisation alone may read."""
    named = canonical.dump(["recorded user", org_id, user])
    return "user_" + hashlib.sha256(named).hexdigest()[:_DIGEST_CHARS]


def _answer(draft: Draft) -> bytes:
    """On one line, as all of a record: it is exported as one."""
    if draft.tier is not None:
        return draft.answer  # the cache wrote it
    try:
        if not draft.chunks:
            return orjson.dumps(canonical.parse_object(draft.answer))
        return orjson.dumps(fold([canonical.parse_object(chunk) for chunk in draft.chunks]))
    except (canonical.NotCanonical, NotFoldable) as error:
        raise Unfit("the answer can't be read") from error


def seal_recording(recording: Recording) -> bytes:
    """The bytes to keep."""
    facts = asdict(recording)
    body, answer = facts.pop("body"), facts.pop("answer")
    controls = recording.controls
    facts["tier"] = recording.tier and recording.tier.value
    facts["usage"]["provenance"] = recording.usage.provenance.value
    facts["controls"] |= {"mode": controls.mode.value, "up_to": controls.up_to.value}
    head = orjson.dumps(facts)
    lengths = _LENGTHS.pack(len(head), len(body), len(answer))
    return MAGIC + zlib.compress(b"".join((lengths, head, body, answer)), _LEVEL)


def open_recording(blob: bytes, *, max_bytes: int) -> Recording:
    """The record in ``blob``. ``max_bytes``: more than any record has; past it the bytes are none.

    Raises:
        Unfit: these are not the bytes of a record.
    """
    if not blob.startswith(MAGIC):
        raise Unfit("not a record")
    try:
        stream = zlib.decompressobj()
        whole = stream.decompress(memoryview(blob)[len(MAGIC) :], max_bytes)
        if not stream.eof:
            raise Unfit("the record is cut short or too long")
        head_len, body_len, answer_len = _LENGTHS.unpack_from(whole)
        body_at = _LENGTHS.size + head_len
        answer_at = body_at + body_len
        if len(whole) != answer_at + answer_len:
            raise Unfit("the record is cut short")
        facts = orjson.loads(whole[_LENGTHS.size : body_at])
        return _recording(facts, whole[body_at:answer_at], whole[answer_at:])
    except (zlib.error, struct.error, ValueError, KeyError, TypeError) as error:
        raise Unfit("the record is unreadable") from error


def _recording(facts: dict[str, Any], body: bytes, answer: bytes) -> Recording:
    controls = facts["controls"]
    usage = facts["usage"]
    return Recording(
        **{
            **facts,
            "body": body,
            "answer": answer,
            "tier": None if facts["tier"] is None else Tier(facts["tier"]),
            "usage": Usage(**{**usage, "provenance": Provenance(usage["provenance"])}),
            "controls": RecordedControls(
                **{**controls, "mode": Mode(controls["mode"]), "up_to": Tier(controls["up_to"])}
            ),
        }
    )
