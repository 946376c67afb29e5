"""Times as texts, in UTC (ISO 8601)."""

from __future__ import annotations

from datetime import UTC, datetime


def day_of(unix_ms: int) -> str:
    """ "2026-11-24"."""
    return datetime.fromtimestamp(unix_ms / 1_000, UTC).date().isoformat()


def hour_of(unix_ms: int) -> str:
    """ "2026-11-24T13:00:00Z"."""
    return datetime.fromtimestamp(unix_ms / 1_000, UTC).strftime("%Y-%m-%dT%H:00:00Z")
