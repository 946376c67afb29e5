"""The contract over real channels, from settings to the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from catalog_svc.domain import CatalogInvalid, Snapshot, StoreUnavailable
from catalog_svc.servicer import snapshot_to_proto
from catalog_svc.settings import CatalogSettings
from catalog_svc.wiring import build
from meshkit.channels import Dialer
from meshkit.codec import price_from_proto
from meshkit.errors import MeshError, mesh_errors
from meshkit.telemetry import Telemetry
from meshkit.testing import TRANSPORTS, linked
from tallygate.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from tallygate.common.v1.errors_pb2 import ErrorReason

Write = Callable[[str, str], Path]
TIMEOUT_S = 10


class Ticks:
    """The reload loop's sleep: one poll for each tick."""

    def __init__(self) -> None:
        self._ticks: asyncio.Queue[None] = asyncio.Queue()

    async def __call__(self, seconds: float) -> None:
        await self._ticks.get()

    def tick(self) -> None:
        self._ticks.put_nowait(None)


@asynccontextmanager
async def served(
    settings: CatalogSettings, transport: str = "tcp", ticks: Ticks | None = None
) -> AsyncIterator[catalog_pb2_grpc.CatalogServiceAsyncStub]:
    telemetry = Telemetry.off()
    async with (
        Dialer(telemetry) as dial,
        build(settings, dial, telemetry, sleep=ticks or Ticks()) as register,
        linked(register, transport) as channel,
    ):
        yield catalog_pb2_grpc.CatalogServiceStub(channel)


def request(revision: str = "") -> catalog_pb2.GetSnapshotRequest:
    return catalog_pb2.GetSnapshotRequest(revision=revision)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_the_whole_seed_arrives(transport: str, seed: Snapshot) -> None:
    async with served(CatalogSettings(), transport) as stub:
        snapshot = (await stub.GetSnapshot(request(), timeout=TIMEOUT_S)).snapshot
        by_name = (await stub.GetSnapshot(request(snapshot.revision), timeout=TIMEOUT_S)).snapshot
    assert by_name == snapshot
    assert snapshot.revision == seed.revision
    assert snapshot.created_at_ms > 0
    assert [model.id for model in snapshot.models] == [model.id for model in seed.models]
    assert [offer.id for offer in snapshot.offers] == sorted(offer.id for offer in snapshot.offers)
    model = next(model for model in snapshot.models if model.id == "gpt-4o-mini")
    assert (model.display_name, model.owned_by, model.context_tokens, model.max_output_tokens) == (
        "GPT-4o mini",
        "openai",
        128_000,
        16_384,
    )
    assert model.capabilities == catalog_pb2.Capabilities(tools=True, vision=True, json_object=True, json_schema=True)
    assert len(model.policy_epoch) == 16
    assert model.released_at_s == 1_721_260_800
    assert catalog_pb2.Alias(name="openai/gpt-4o-mini", model_id="gpt-4o-mini") in snapshot.aliases


async def test_offers_and_sources_on_the_wire(seed: Snapshot) -> None:
    wire = snapshot_to_proto(seed)
    offers = {offer.id: offer for offer in wire.offers}
    assert not offers["google/gemma-4-31b-it"].HasField("price")
    tiered = offers["google/gemini-2.5-pro"]
    assert (tiered.model_id, tiered.source_id, tiered.upstream_model) == ("gemini-2.5-pro", "google", "gemini-2.5-pro")
    assert price_from_proto(tiered.price) == next(o.price for o in seed.offers if o.id == "google/gemini-2.5-pro")
    assert tiered.price.catalog_revision == wire.revision
    assert offers["openrouter/qwen3-32b"].context_tokens == 40_960
    sources = {source.id: source for source in wire.sources}
    assert sources["anthropic"] == catalog_pb2.Source(
        id="anthropic",
        display_name="Anthropic",
        base_url="https://api.anthropic.com/v1",
        wire_format=catalog_pb2.WIRE_FORMAT_OPENAI,
        api_key_env="ANTHROPIC_API_KEY",
        cancel_stops_billing=True,
        region="us",
        cached_tokens=catalog_pb2.CACHED_TOKEN_ACCOUNTING_INSIDE_PROMPT,
    )


async def test_an_unknown_revision_is_not_found() -> None:
    async with served(CatalogSettings()) as stub:
        with pytest.raises(MeshError) as caught, mesh_errors():
            await stub.GetSnapshot(request("0123456789abcdef"), timeout=TIMEOUT_S)
    assert caught.value.reason == ErrorReason.ERROR_REASON_NOT_FOUND
    assert caught.value.status == grpc.StatusCode.NOT_FOUND
    assert caught.value.metadata == {"param": "revision"}
    assert "0123456789abcdef" in caught.value.message


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_watch_follows_the_overlay(transport: str, write: Write) -> None:
    overlay, ticks = write("overlay.yaml", ""), Ticks()
    async with served(CatalogSettings(overlays=[overlay]), transport, ticks) as stub:
        first = (await stub.GetSnapshot(request(), timeout=TIMEOUT_S)).snapshot
        watch = stub.WatchSnapshot(catalog_pb2.WatchSnapshotRequest(known_revision=first.revision), timeout=TIMEOUT_S)
        write("overlay.yaml", "sources: {local: {base_url: 'http://127.0.0.1:9/v1'}}")
        ticks.tick()
        second = (await anext(aiter(watch))).snapshot
        assert {s.id: s.base_url for s in second.sources}["local"] == "http://127.0.0.1:9/v1"
        changed = {m.id for m, n in zip(first.models, second.models, strict=True) if m.policy_epoch != n.policy_epoch}
        assert changed == {"local/smollm2-135m-instruct"}
        write("overlay.yaml", "sources: {local: {base_urll: x}}")
        ticks.tick()
        write("overlay.yaml", "aliases: {default: gpt-4o-mini}")
        ticks.tick()
        third = (await anext(aiter(watch))).snapshot
        assert catalog_pb2.Alias(name="default", model_id="gpt-4o-mini") in third.aliases
        assert (await stub.GetSnapshot(request(first.revision), timeout=TIMEOUT_S)).snapshot == first
        watch.cancel()


async def test_a_fresh_watch_begins_with_the_current_revision() -> None:
    async with served(CatalogSettings()) as stub:
        watch = stub.WatchSnapshot(catalog_pb2.WatchSnapshotRequest(), timeout=TIMEOUT_S)
        watched = (await anext(aiter(watch))).snapshot
        assert watched == (await stub.GetSnapshot(request(), timeout=TIMEOUT_S)).snapshot
        watch.cancel()


async def test_old_revisions_outlive_a_restart(tmp_path: Path, write: Write) -> None:
    revisions_dir = tmp_path / "revisions"
    async with served(CatalogSettings(revisions_dir=revisions_dir)) as stub:
        before = (await stub.GetSnapshot(request(), timeout=TIMEOUT_S)).snapshot
    overlay = write("overlay.yaml", "aliases: {default: gpt-4o-mini}")
    async with served(CatalogSettings(revisions_dir=revisions_dir, overlays=[overlay])) as stub:
        assert (await stub.GetSnapshot(request(), timeout=TIMEOUT_S)).snapshot.revision != before.revision
        assert (await stub.GetSnapshot(request(before.revision), timeout=TIMEOUT_S)).snapshot == before
    async with served(CatalogSettings(revisions_dir=revisions_dir)) as stub:
        assert (await stub.GetSnapshot(request(), timeout=TIMEOUT_S)).snapshot == before


async def test_a_changed_revision_file_is_unavailable(tmp_path: Path, write: Write) -> None:
    revisions_dir = tmp_path / "revisions"
    async with served(CatalogSettings(revisions_dir=revisions_dir)) as stub:
        old = (await stub.GetSnapshot(request(), timeout=TIMEOUT_S)).snapshot.revision
    (path,) = revisions_dir.iterdir()
    path.write_bytes(path.read_bytes() + b" ")
    overlay = write("overlay.yaml", "aliases: {default: gpt-4o-mini}")
    async with served(CatalogSettings(revisions_dir=revisions_dir, overlays=[overlay])) as stub:
        with pytest.raises(MeshError) as caught, mesh_errors():
            await stub.GetSnapshot(request(old), timeout=TIMEOUT_S)
    assert caught.value.reason == ErrorReason.ERROR_REASON_UNAVAILABLE


async def test_a_broken_overlay_at_start_refuses_to_serve(write: Write) -> None:
    overlay = write("overlay.yaml", "offers:\n  nowhere/gpt-4o: {}\n")
    with pytest.raises(CatalogInvalid, match=r"overlay.yaml:2: offers.nowhere/gpt-4o: there is no source 'nowhere'"):
        async with served(CatalogSettings(overlays=[overlay])):
            pytest.fail("it serves")


async def test_a_revisions_dir_that_can_not_be_used_refuses_to_serve(write: Write) -> None:
    with pytest.raises(StoreUnavailable, match="can't use"):
        async with served(CatalogSettings(revisions_dir=write("file", ""))):
            pytest.fail("it serves")


async def test_what_fails_inside_arrives_as_it_was_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        async with served(CatalogSettings()):
            raise ZeroDivisionError


async def test_a_reload_that_fails_in_an_unforeseen_way_ends_the_service() -> None:
    async def no_sleep_left(seconds: float) -> None:
        raise ZeroDivisionError

    telemetry = Telemetry.off()
    with pytest.raises(ZeroDivisionError):
        async with (
            Dialer(telemetry) as dial,
            build(CatalogSettings(), dial, telemetry, sleep=no_sleep_left) as register,
            linked(register, "local"),
        ):
            await asyncio.Event().wait()


def test_settings_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CatalogSettings().overlays == []
    monkeypatch.setenv("TALLYGATE_CATALOG_OVERLAYS", "/etc/a.yaml:/etc/b.yaml")
    monkeypatch.setenv("TALLYGATE_CATALOG_LISTEN", "unix:///run/catalog")
    settings = CatalogSettings()
    assert settings.overlays == [Path("/etc/a.yaml"), Path("/etc/b.yaml")]
    assert settings.listen == "unix:///run/catalog"
