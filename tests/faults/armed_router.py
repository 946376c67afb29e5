"""`python -m tests.faults.armed_router`: the router, with seams at which a process is killed. See ``armed_ledger``."""

from __future__ import annotations

import asyncio

from meshkit.channels import Dialer
from meshkit.logs import configure_logging
from meshkit.serve import serve
from meshkit.telemetry import Telemetry
from router_svc.service.seam import CallSeam
from router_svc.settings import RouterSettings
from router_svc.wiring import build
from tests.faults.trigger import Trigger


class ArmedCalls(CallSeam):
    def __init__(self, trigger: Trigger) -> None:
        self._trigger = trigger

    def streaming(self) -> None:
        self._trigger.reach("streaming")

    def used(self) -> None:
        self._trigger.reach("used")

    def settled(self) -> None:
        self._trigger.reach("settled")


async def main() -> None:
    """As `python -m router_svc`."""
    settings = RouterSettings()
    configure_logging("tallygate-router", level=settings.log_level)
    telemetry = Telemetry.start("tallygate-router")
    seam = ArmedCalls(Trigger.of_environment())
    async with Dialer(telemetry) as dial, build(settings, dial, telemetry, seam=seam) as register:
        await serve(register, settings.listen, telemetry, drain_s=settings.drain_s)


if __name__ == "__main__":
    asyncio.run(main())
