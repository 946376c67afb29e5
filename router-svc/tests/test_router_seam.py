"""The moments of a call at which a harness kills the process: each is what its name says."""

from __future__ import annotations

import pytest
from router_rig import FakeLedger, ScriptedSource, catalog_of, completion_body, json_answer, rig_over, usage_block

from router_svc.domain.catalog import Source
from router_svc.domain.errors import UpstreamFailed
from router_svc.service.seam import CallSeam


class Witness(CallSeam):
    """Notes each moment, and what the ledger had been told by then."""

    def __init__(self, ledger: FakeLedger) -> None:
        self._ledger = ledger
        self.seen: list[tuple[str, list[str]]] = []

    def streaming(self) -> None:
        self._see("streaming")

    def used(self) -> None:
        self._see("used")

    def settled(self) -> None:
        self._see("settled")

    def _see(self, moment: str) -> None:
        self.seen.append((moment, [command for command, _ in self._ledger.log]))


async def test_the_moments_of_a_stream(source: ScriptedSource) -> None:
    ledger = FakeLedger()
    witness = Witness(ledger)
    async with rig_over(catalog_of(Source("a", source.base_url)), ledger=ledger, seam=witness) as rig:
        await rig.complete()
    assert witness.seen == [
        ("streaming", ["reserve"]),
        ("used", ["reserve"]),
        ("settled", ["reserve", "settle"]),
    ]


async def test_the_moments_of_a_plain_answer(source: ScriptedSource) -> None:
    source.script = [json_answer(completion_body(usage=usage_block()))]
    ledger = FakeLedger()
    witness = Witness(ledger)
    async with rig_over(catalog_of(Source("a", source.base_url)), ledger=ledger, seam=witness) as rig:
        await rig.complete(stream=False)
    assert witness.seen == [("used", ["reserve"]), ("settled", ["reserve", "settle"])]


async def test_a_call_that_is_released_has_none(source: ScriptedSource) -> None:
    source.script = [json_answer(b"{}", status=500)]
    ledger = FakeLedger()
    witness = Witness(ledger)
    async with rig_over(catalog_of(Source("a", source.base_url)), ledger=ledger, seam=witness) as rig:
        with pytest.raises(UpstreamFailed):
            await rig.complete(stream=False)
    assert (witness.seen, [command for command, _ in ledger.log]) == ([], ["reserve", "release"])
