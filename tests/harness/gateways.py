"""One gateway in each mode for all tests of a process: to start one takes longer than a file of tests on it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from meshkit.money import NANO_PER_USD
from tallygate_deploy.span_receiver import SpanReceiver
from tests.harness.background import BackgroundLoop
from tests.harness.gateway import Gateway, running_gateway
from tests.harness.tenants import Tenants
from tests.upstream.server import ScriptedUpstream

CREDIT_NANO_USD = 10 * NANO_PER_USD


class Gateways:
    """Started when first asked for, each on a folder of its own inside ``folder``."""

    def __init__(
        self,
        background: BackgroundLoop,
        upstream: ScriptedUpstream,
        spans: SpanReceiver,
        folder: Path,
        environment: Mapping[str, str],
    ) -> None:
        self._background = background
        self._upstream = upstream
        self._spans = spans
        self._folder = folder
        self._environment = environment
        self._running: dict[str, Gateway] = {}
        self._stack = ExitStack()

    def of_new_tenant(self, mode: str) -> Gateway:
        """The gateway of a mode ("allinone" or "mesh") as a new organisation sees it: with a key and credit of its own,
        and with nothing replayed that others have asked.
        """
        if mode not in self._running:
            self._running[mode] = self._started(mode)
        running = self._running[mode]
        return replace(running, api_key=running.tenants.make(CREDIT_NANO_USD).secret)

    def stop(self) -> None:
        """Ends those that run."""
        self._running.clear()
        self._stack.close()

    def _started(self, mode: str) -> Gateway:
        folder = self._folder / f"{mode}{len(list(self._folder.iterdir()))}"
        folder.mkdir()
        catalog = self._upstream.write_overlay(folder / "overlay.yaml")
        process = self._stack.enter_context(
            running_gateway(mode, folder / "data", catalog=catalog, environment=self._environment)
        )
        tenants = Tenants(self._background, process.ledger_addr)
        revoked = tenants.make(credit_nano_usd=10**9)
        tenants.revoke(revoked)
        return Gateway(
            process=process,
            upstream=self._upstream,
            spans=self._spans,
            tenants=tenants,
            api_key=process.api_key,
            poor_key=tenants.make().secret,
            revoked_key=revoked.secret,
        )
