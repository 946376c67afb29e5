"""The edge's view of the catalog: a snapshot that is watched, so that no request waits for it."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from dataclasses import dataclass

import orjson
import structlog

from edge.errors import invalid, refusal
from edge.mesh import Catalog
from edge.wire.models import model_json
from tallygate.catalog.v1 import catalog_pb2
from tallygate.common.v1.errors_pb2 import ErrorReason

_MAX_SHOWN_CHARS = 100
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Index:
    """What is asked of one revision, computed once."""

    revision: str
    models: Mapping[str, catalog_pb2.Model]
    """By every name that a request may use: ids and aliases."""
    objects: Mapping[str, bytes]
    """The JSON of each."""
    listing: bytes
    keyed_sources: frozenset[str]
    """Sources that can be called and need a key."""
    snapshot: catalog_pb2.Snapshot
    regions: Mapping[str, str]
    """Where each source is, by its id; empty: not known."""


class CatalogView:
    """Models and aliases as of the newest revision seen."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._index: _Index | None = None
        self._arrived = asyncio.Event()

    @property
    def revision(self) -> str:
        """The revision held; empty before the first has come."""
        return self._index.revision if self._index else ""

    async def arrived(self, within_s: float) -> None:
        """Returns when there is a snapshot, and without one after so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._arrived.wait()

    def resolve(self, name: str) -> catalog_pb2.Model:
        """The model of a name, which may be an alias.

        Raises:
            MeshError: MODEL_NOT_FOUND, with names that are near; UNAVAILABLE before the first snapshot.
        """
        model = self._current().models.get(name)
        if model is None:
            raise self._unknown(name)
        return model

    def object_json(self, name: str) -> bytes:
        """The model object of a name.

        Raises:
            MeshError: as ``resolve``.
        """
        found = self._current().objects.get(name)
        if found is None:
            raise self._unknown(name)
        return found

    def region_of(self, source_id: str) -> str:
        """Where a source is: "cn", "us", "eu"; empty: not known.

        Raises:
            MeshError: UNAVAILABLE before the first snapshot.
        """
        return self._current().regions.get(source_id, "")

    def listing_json(self) -> bytes:
        """All models and aliases as one list object.

        Raises:
            MeshError: UNAVAILABLE before the first snapshot.
        """
        return self._current().listing

    def check_takes_keys(self, source_id: str) -> None:
        """That a provider key can be of use at this source.

        Raises:
            MeshError: INVALID_REQUEST, with the sources that there are; UNAVAILABLE before the first snapshot.
        """
        keyed = self._current().keyed_sources
        if source_id not in keyed:
            known = ", ".join(sorted(keyed)) or "none"
            raise invalid(
                f"There is no source `{source_id[:_MAX_SHOWN_CHARS]}` that takes a key. Those that do: {known}.",
                "source",
            )

    def snapshot(self) -> catalog_pb2.Snapshot:
        """The newest revision as it came.

        Raises:
            MeshError: UNAVAILABLE before the first snapshot.
        """
        return self._current().snapshot

    def changes(self) -> AsyncGenerator[catalog_pb2.Snapshot]:
        """The stream to watch."""
        return self._catalog.snapshots(self.revision)

    def take(self, snapshot: catalog_pb2.Snapshot) -> None:
        """Makes ``snapshot`` the current one."""
        models = {model.id: model for model in snapshot.models}
        objects = {model.id: model_json(model) for model in snapshot.models}
        for alias in snapshot.aliases:
            target = models.get(alias.model_id)
            if target is None or alias.name in objects:
                _log.warning("alias_ignored", alias=alias.name, model=alias.model_id)
                continue
            objects[alias.name] = model_json(target, alias=alias.name)
        names = {name: models[str(entry.get("alias_of", name))] for name, entry in objects.items()}
        self._index = _Index(
            revision=snapshot.revision,
            models=names,
            objects={name: orjson.dumps(entry) for name, entry in objects.items()},
            listing=orjson.dumps({"object": "list", "data": list(objects.values())}),
            keyed_sources=frozenset(s.id for s in snapshot.sources if s.base_url and s.api_key_env),
            snapshot=snapshot,
            regions={source.id: source.region for source in snapshot.sources},
        )
        self._arrived.set()
        _log.info("catalog_revision", revision=snapshot.revision, models=len(models), aliases=len(names) - len(models))

    def _current(self) -> _Index:
        if self._index is None:
            raise refusal(ErrorReason.ERROR_REASON_UNAVAILABLE, "no catalog snapshot has come yet")
        return self._index

    def _unknown(self, name: str) -> Exception:
        message = f"There is no model `{name[:_MAX_SHOWN_CHARS]}`."
        if len(name) <= _MAX_SHOWN_CHARS:  # the search takes time that grows with the square of the name
            near = difflib.get_close_matches(name, self._current().models, n=3, cutoff=0.6)
            if near:
                message += f" Did you mean {' or '.join(f'`{candidate}`' for candidate in near)}?"
        message += " GET /v1/models lists them."
        return refusal(ErrorReason.ERROR_REASON_MODEL_NOT_FOUND, message, param="model")
