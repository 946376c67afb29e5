"""Settings: what is refused before anything starts."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from cache_svc.settings import CacheSettings


def test_defaults_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (CacheSettings().listen, CacheSettings().url) == ("grpc://127.0.0.1:7002", "memory://")
    monkeypatch.setenv("TALLYGATE_CACHE_URL", "redis://:secret@cache:6379/0")
    monkeypatch.setenv("TALLYGATE_CACHE_TTL_S", "60")
    assert (CacheSettings().url, CacheSettings().ttl_s) == ("redis://:secret@cache:6379/0", 60)


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "http://cache"},
        {"url": "memory://x"},
        {"url": ""},
        {"ttl_s": 0},
        {"max_entry_bytes": 2, "max_bytes": 1},
        {"redis_timeout_s": 0},
        {"log_level": "loud"},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CacheSettings(**wrong)
