"""Runs the edge as a process of its own: ``python -m edge``."""

from __future__ import annotations

import uvloop

from edge.serving import serve_http
from edge.settings import EdgeSettings
from edge.wiring import build
from meshkit.channels import Dialer
from meshkit.logs import configure_logging
from meshkit.telemetry import Telemetry


async def main() -> None:
    """Settings, wiring, serve."""
    settings = EdgeSettings()
    configure_logging("tallygate-edge", level=settings.log_level)
    telemetry = Telemetry.start("tallygate-edge")
    try:
        async with Dialer(telemetry) as dial, build(settings, dial, telemetry) as app:
            await serve_http(
                app,
                settings.host,
                settings.port,
                fd=settings.fd,
                drain_s=settings.drain_s,
                keep_alive_s=settings.keep_alive_s,
            )
    finally:
        telemetry.shutdown()


if __name__ == "__main__":
    uvloop.run(main())
