"""The JSON of recorded requests."""

from __future__ import annotations

from typing import Any, Literal

import orjson
from pydantic import Field

from edge.wire.account.base import Answer
from edge.wire.receipts import usage_json
from meshkit.money import format_usd
from tallygate.cache.v1 import cache_pb2, recordings_pb2

_TIERS = {
    cache_pb2.REPLAY_TIER_UNSPECIFIED: "fresh",
    cache_pb2.REPLAY_TIER_EXACT: "exact",
    cache_pb2.REPLAY_TIER_CANONICAL: "canonical",
    cache_pb2.REPLAY_TIER_SEMANTIC: "semantic",
}
_MODES = {
    cache_pb2.CacheControls.MODE_UNSPECIFIED: "default",
    cache_pb2.CacheControls.MODE_DEFAULT: "default",
    cache_pb2.CacheControls.MODE_OFF: "off",
    cache_pb2.CacheControls.MODE_REFRESH: "refresh",
    cache_pb2.CacheControls.MODE_ONLY: "only",
}


def recording_json(recording: recordings_pb2.Recording) -> dict[str, Any]:
    """A line of the export. Body and answer stand in it as they were recorded, byte for byte."""
    return {
        "object": "cache.recording",
        "asked_at_ms": recording.asked_at_ms,
        "project_id": recording.project_id,
        "endpoint": recording.endpoint,
        "model": recording.model,
        "policy_epoch": recording.policy_epoch,
        "body": orjson.Fragment(recording.openai_body),
        "cache": _controls_json(recording.controls),
        "served_mode": _TIERS.get(recording.tier, "fresh"),
        "why_not_stored": recording.why_not_stored or None,
        "usage": usage_json(recording.usage),
        "fresh_usd": format_usd(recording.fresh_nano_usd),
        "replay_usd": format_usd(recording.replay_nano_usd),
        "answer": orjson.Fragment(recording.answer),
        "age_ms": recording.age_ms,
        "receipt_id": recording.receipt_id or None,
        "origin_receipt_id": recording.origin_receipt_id or None,
        "source_id": recording.source_id or None,
    }


def _controls_json(controls: cache_pb2.CacheControls) -> dict[str, Any]:
    return {
        "mode": _MODES.get(controls.mode, "default"),
        "max_age_s": controls.max_age_s if controls.HasField("max_age_s") else None,
        "allow_sampled": controls.allow_sampled,
        "up_to": _TIERS[controls.up_to or cache_pb2.REPLAY_TIER_EXACT],
        "max_error_ppm": controls.max_error_ppm if controls.HasField("max_error_ppm") else None,
        "ttl_s": controls.ttl_s,
        "share_in_org": controls.share_in_org,
    }


class DroppedRecordings(Answer):
    """Requests that were not recorded, since the cache's process began; of several replicas, the one that answers."""

    busy: int = Field(description="Records came faster than they are written.")
    away: int = Field(description="The backend was away.")
    unfit: int = Field(description="Request and answer are too long to be recorded, or can't be read.")


class RecordingStatus(Answer):
    """What is recorded of an organisation."""

    object: Literal["cache.recording_status"] = "cache.recording_status"
    records: int
    bytes: int = Field(description="Compressed.")
    oldest_at: int | None = Field(description="Unix time in seconds; null: there is none.")
    newest_at: int | None = Field(description="Unix time in seconds; null: there is none.")
    max_records: int = Field(description="Past it the oldest go.")
    max_bytes: int = Field(description="Past it the oldest go.")
    ttl_s: int = Field(description="How long a record is kept, in seconds.")
    dropped: DroppedRecordings

    @classmethod
    def of(cls, found: recordings_pb2.DescribeRecordingsResponse) -> RecordingStatus:
        """As the cache has it."""
        return cls(
            records=found.records,
            bytes=found.bytes,
            oldest_at=found.oldest_at_ms // 1_000 if found.records else None,
            newest_at=found.newest_at_ms // 1_000 if found.records else None,
            max_records=found.max_records,
            max_bytes=found.max_bytes,
            ttl_s=found.ttl_s,
            dropped=DroppedRecordings(busy=found.dropped_busy, away=found.dropped_away, unfit=found.dropped_unfit),
        )


class ForgottenRecordings(Answer):
    """What was forgotten."""

    object: Literal["cache.recordings"] = "cache.recordings"
    forgotten: int = Field(description="How many records there were.")
