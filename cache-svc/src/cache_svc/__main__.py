"""Runs the cache as a process of its own: ``python -m cache_svc``."""

from __future__ import annotations

import uvloop

from cache_svc.settings import CacheSettings
from cache_svc.wiring import build
from meshkit.channels import Dialer
from meshkit.logs import configure_logging
from meshkit.serve import serve
from meshkit.telemetry import Telemetry


async def main() -> None:
    """Serves until SIGTERM."""
    settings = CacheSettings()
    configure_logging("tallygate-cache", level=settings.log_level)
    telemetry = Telemetry.start("tallygate-cache")
    try:
        async with Dialer(telemetry) as dial, build(settings, dial, telemetry) as register:
            await serve(register, settings.listen, telemetry, drain_s=settings.drain_s)
    finally:
        telemetry.shutdown()


if __name__ == "__main__":
    uvloop.run(main())
