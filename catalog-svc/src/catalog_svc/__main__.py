"""Serves the catalog until SIGTERM or SIGINT."""

from __future__ import annotations

import sys

import uvloop

from catalog_svc.domain import CatalogInvalid
from catalog_svc.settings import CatalogSettings
from catalog_svc.wiring import build
from meshkit.channels import Dialer
from meshkit.logs import configure_logging
from meshkit.serve import serve
from meshkit.telemetry import Telemetry


async def main() -> None:
    """Settings, wiring, serving."""
    settings = CatalogSettings()
    configure_logging("tallygate-catalog", level=settings.log_level)
    telemetry = Telemetry.start("tallygate-catalog")
    async with Dialer(telemetry) as dial, build(settings, dial, telemetry) as register:
        await serve(register, settings.listen, telemetry, drain_s=settings.drain_s)
    telemetry.shutdown()


if __name__ == "__main__":
    try:
        uvloop.run(main())
    except CatalogInvalid as refused:
        sys.exit(f"the catalog is not right, so it is not served:\n{refused}")
