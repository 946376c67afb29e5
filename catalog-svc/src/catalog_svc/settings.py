"""What can be set, in code or by ``TALLYGATE_CATALOG_*``. The only reader of the environment here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class CatalogSettings(BaseSettings):
    """Settings of the catalog."""

    model_config = SettingsConfigDict(env_prefix="TALLYGATE_CATALOG_", extra="forbid", use_attribute_docstrings=True)

    listen: str = "grpc://127.0.0.1:7004"
    """Where to serve: ``grpc://HOST:PORT`` (port 0 picks one), ``unix:///PATH`` or ``local://NAME``."""

    drain_s: float = Field(default=30.0, ge=0)
    """Seconds that open calls are given to end after a SIGTERM."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least grave level that is logged."""

    overlays: Annotated[list[Path], NoDecode] = []
    """YAML documents on top of the seed, each over the one before. In the environment: paths joined by ``:``."""

    reload_poll_s: float = Field(default=2.0, gt=0)
    """Seconds between two looks at the overlays."""

    revisions_dir: Path | None = None
    """Where revisions are kept over a restart; unset: in memory only."""

    keep_revisions: int = Field(default=64, ge=1, le=100_000)
    """How many revisions are kept, the current one included."""

    @field_validator("overlays", mode="before")
    @classmethod
    def _split_paths(cls, value: Any) -> Any:
        return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value
