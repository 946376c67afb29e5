"""Runs the ledger as a process of its own."""

from __future__ import annotations

import uvloop

from ledger_svc.settings import LedgerSettings
from ledger_svc.wiring import build
from meshkit.channels import Dialer
from meshkit.logs import configure_logging
from meshkit.serve import serve
from meshkit.telemetry import Telemetry


async def main() -> None:
    """Serves until SIGTERM."""
    settings = LedgerSettings()
    configure_logging("tallygate-ledger", level=settings.log_level)
    telemetry = Telemetry.start("tallygate-ledger")
    try:
        async with Dialer(telemetry) as dial, build(settings, dial, telemetry) as register:
            await serve(register, settings.listen, telemetry, drain_s=settings.drain_s)
    finally:
        telemetry.shutdown()


if __name__ == "__main__":
    uvloop.run(main())
