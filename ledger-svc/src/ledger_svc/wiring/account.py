"""What an account is managed by: a service for each thing that it is made of."""

from __future__ import annotations

import secrets

from ledger_svc.domain.envelope import Envelope
from ledger_svc.service.accounts import AccountService
from ledger_svc.service.provider_key_changes import ProviderKeyChanges
from ledger_svc.service.provider_keys import ProviderKeyService
from ledger_svc.service.rewrapping import Rewrapping
from ledger_svc.service.trail import TrailService
from ledger_svc.servicer.account import AccountServicer
from ledger_svc.servicer.audit import AuditServicer
from ledger_svc.servicer.provider_keys import ProviderKeyServicer
from ledger_svc.store.provider_keys import ProviderKeys
from ledger_svc.store.trail_records import TrailRecords
from ledger_svc.wiring.parts import Assembly, Parts
from tallygate.ledger.v1.account_pb2_grpc import add_AccountServiceServicer_to_server
from tallygate.ledger.v1.audit_pb2_grpc import add_AuditServiceServicer_to_server
from tallygate.ledger.v1.provider_keys_pb2_grpc import add_ProviderKeyServiceServicer_to_server


def add_account(assembly: Assembly, parts: Parts) -> None:
    """Adds the services and what they need done beside them."""
    assembly.serve(add_AccountServiceServicer_to_server, AccountServicer(AccountService(parts.directory)))
    _add_audit(assembly, parts)
    _add_provider_keys(assembly, parts)


def _add_audit(assembly: Assembly, parts: Parts) -> None:
    records = TrailRecords(parts.database, parts.writer, parts.trail)
    trail = TrailService(records, parts.log_service, clock=parts.clock, make_id=parts.make_id)
    assembly.serve(add_AuditServiceServicer_to_server, AuditServicer(trail))


def _add_provider_keys(assembly: Assembly, parts: Parts) -> None:
    settings = parts.settings
    envelope = Envelope(settings.secrets_key_bytes(), secrets.token_bytes)
    store = ProviderKeys(parts.database, parts.writer, parts.trail, envelope, parts.make_id)
    changes = ProviderKeyChanges(store, parts.clock, max_pending=settings.revocation_queue)
    service = ProviderKeyService(store, changes, parts.clock, parts.make_id)
    assembly.serve(add_ProviderKeyServiceServicer_to_server, ProviderKeyServicer(service, changes))
    assembly.run(lambda: changes.run(settings.revocation_poll_s))
    assembly.run(lambda: Rewrapping(store).run(settings.rewrap_interval_s))
