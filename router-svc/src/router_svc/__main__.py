"""Runs the router as a process of its own."""

from __future__ import annotations

import uvloop

from meshkit.channels import Dialer
from meshkit.logs import configure_logging
from meshkit.serve import serve
from meshkit.telemetry import Telemetry
from router_svc.settings import RouterSettings
from router_svc.wiring import build


async def main() -> None:
    """Serve until told to stop."""
    settings = RouterSettings()
    configure_logging("tallygate-router", level=settings.log_level)
    telemetry = Telemetry.start("tallygate-router")
    try:
        async with Dialer(telemetry) as dial, build(settings, dial, telemetry) as register:
            await serve(register, settings.listen, telemetry, drain_s=settings.drain_s)
    finally:
        telemetry.shutdown()


if __name__ == "__main__":
    uvloop.run(main())
