"""Keys, holds, charges, credit, caps, receipts and the log: ``LedgerService``."""

from __future__ import annotations

from ledger_svc.service.budgets import BudgetService
from ledger_svc.service.charging import ChargingService
from ledger_svc.service.credit import CreditService
from ledger_svc.service.receipts import ReceiptService
from ledger_svc.service.sweeper import Sweeper
from ledger_svc.servicer import LedgerServicer
from ledger_svc.wiring.parts import Assembly, Parts
from tallygate.ledger.v1.ledger_pb2_grpc import add_LedgerServiceServicer_to_server


def add_money(assembly: Assembly, parts: Parts) -> None:
    """Adds the service and what it needs done beside it."""
    settings, clock, make_id = parts.settings, parts.clock, parts.make_id
    writer, records = parts.writer, parts.records
    servicer = LedgerServicer(
        keys=parts.keys,
        charging=ChargingService(ledger=writer, clock=clock, make_id=make_id),
        credit=CreditService(ledger=writer, records=records, clock=clock, make_id=make_id),
        budgets=BudgetService(ledger=writer, records=records, directory=parts.directory, clock=clock),
        receipts=ReceiptService(records, parts.log),
        log=parts.log_service,
        revocations=parts.revocations,
    )
    sweeper = Sweeper(ledger=writer, records=records, clock=clock, batch_limit=settings.sweep_batch_limit)
    assembly.serve(add_LedgerServiceServicer_to_server, servicer)
    assembly.run(lambda: sweeper.run(settings.sweep_interval_s))
    assembly.run(lambda: parts.revocations.run(settings.revocation_poll_s, lambda: writer.is_leading))
    assembly.run(lambda: parts.log_service.run(settings.checkpoint_interval_s))
