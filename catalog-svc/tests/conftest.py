from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import pytest

from catalog_svc.domain import Contents, Snapshot, make_snapshot
from catalog_svc.store.documents.assemble import assemble
from catalog_svc.store.documents.layers import Layers
from catalog_svc.store.documents.origin import seed_document
from catalog_svc.store.documents.yaml_exact import parse

SMALL = """
billing: {markup_bps: 500, replay_bps: 2500}
price_lists:
  lists: {version: "1.2", date: 2026-05-01}
sources:
  near: {name: Near, base_url: "https://near.example/v1", api_key_env: NEAR_KEY, region: eu}
  far: {base_url: "https://far.example/v1"}
models:
  small: {name: Small One, owned_by: maker, context_tokens: 1000, max_output_tokens: 100, capabilities: [tools]}
  large: {context_tokens: 9000, released: 2025-02-03}
offers:
  near/small: {price: {input: 1, output: 4, list: lists}}
  far/small: {upstream_model: small-v2, price: {input: 0.5, output: 2.5}}
  near/large: {price: {input: 10, output: 40}}
aliases: {tiny: small}
"""

Load = Callable[..., Contents]


@pytest.fixture
def load() -> Load:
    """The contents of documents on top of each other; ``today`` by keyword."""

    def load(*documents: str, today: dt.date = dt.date(2026, 11, 22)) -> Contents:
        layers = Layers()
        for number, text in enumerate(documents):
            layers.add(parse(text, f"doc{number}.yaml"))
        return assemble(layers, today)

    return load


@pytest.fixture
def small() -> str:
    return SMALL


@pytest.fixture
def snapshot(load: Load) -> Callable[..., Snapshot]:
    """The snapshot of documents on top of the small one."""

    def snapshot(*overlays: str) -> Snapshot:
        return make_snapshot(load(SMALL, *overlays), created_at_ms=1)

    return snapshot


@pytest.fixture(scope="session")
def seed() -> Snapshot:
    layers = Layers()
    layers.add(seed_document())
    return make_snapshot(assemble(layers, dt.date(2026, 11, 22)), created_at_ms=1)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, "utf-8")
        return path

    return write
