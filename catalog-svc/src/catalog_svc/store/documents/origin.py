"""The catalog out of files: the seed, read once, and the overlays, read again whenever they change."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from datetime import date
from importlib.resources import files
from pathlib import Path

from catalog_svc.domain import CatalogInvalid, Contents
from catalog_svc.store.documents.assemble import assemble
from catalog_svc.store.documents.layers import Layers
from catalog_svc.store.documents.yaml_exact import Document, parse

MAX_OVERLAY_BYTES = 8 * 1024 * 1024


def seed_document() -> Document:
    """The seed that comes with this package."""
    return parse(files("catalog_svc").joinpath("data/seed.yaml").read_text("utf-8"), "seed.yaml")


class DocumentOrigin:
    """``seed`` below ``overlays``, in their order."""

    def __init__(self, seed: Document, overlays: Sequence[Path]) -> None:
        self._overlays = tuple(overlays)
        self._seed = Layers()
        self._seed.add(seed)

    async def fingerprint(self) -> str:
        """A digest over the bytes of all overlays; one that can't be read counts as absent."""
        return await asyncio.to_thread(self._fingerprint)

    async def read(self, today: date) -> Contents:
        """The catalog with the prices in force on ``today``.

        Raises:
            CatalogInvalid: an overlay can't be read, or is not right; the text names file, line and what to do.
        """
        return await asyncio.to_thread(self._read, today)

    def _fingerprint(self) -> str:
        overall = hashlib.sha256()
        for path in self._overlays:
            try:
                overall.update(hashlib.sha256(path.read_bytes()).digest())
            except OSError:
                overall.update(b"unreadable")
        return overall.hexdigest()

    def _read(self, today: date) -> Contents:
        layers = self._seed.copy()
        for path in self._overlays:
            layers.add(parse(_text(path), str(path)))
        return assemble(layers, today)


def _text(path: Path) -> str:
    try:
        size_bytes = path.stat().st_size
        if size_bytes > MAX_OVERLAY_BYTES:
            raise CatalogInvalid(
                [f"{path}: {size_bytes} bytes are too many for an overlay; the limit is {MAX_OVERLAY_BYTES}"]
            )
        return path.read_text("utf-8")
    except OSError as error:
        raise CatalogInvalid(
            [f"{path}: can't be read ({error.strerror}); correct the setting, or put the file there"]
        ) from error
    except UnicodeDecodeError as error:
        raise CatalogInvalid([f"{path}: is not UTF-8 text"]) from error
