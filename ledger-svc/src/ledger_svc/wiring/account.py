"""What an account is managed by: a service for each thing that it is made of."""

from __future__ import annotations

import random
import secrets

from ledger_svc.clients.local_payments import LocalPayments
from ledger_svc.clients.webhooks import SystemResolver, WebhookClient, tls_context
from ledger_svc.domain.envelope import Envelope
from ledger_svc.domain.lockbox import Lockbox
from ledger_svc.service.accounts import AccountService
from ledger_svc.service.alerts import AlertService
from ledger_svc.service.bills import BillService
from ledger_svc.service.cache_policies import CachePolicyService
from ledger_svc.service.courier import Courier, CourierLimits
from ledger_svc.service.payment_ports import PaymentProvider
from ledger_svc.service.payments import PaymentService
from ledger_svc.service.provider_key_changes import ProviderKeyChanges
from ledger_svc.service.provider_keys import ProviderKeyService
from ledger_svc.service.refunds import RefundService
from ledger_svc.service.rewrapping import Rewrapping
from ledger_svc.service.trail import TrailService
from ledger_svc.service.usage import UsageFolding, UsageService
from ledger_svc.service.webhooks import WebhookService
from ledger_svc.servicer.account import AccountServicer
from ledger_svc.servicer.audit import AuditServicer
from ledger_svc.servicer.billing import BillingServicer
from ledger_svc.servicer.provider_keys import ProviderKeyServicer
from ledger_svc.servicer.usage import UsageServicer
from ledger_svc.servicer.webhooks import WebhookServicer
from ledger_svc.store.alerts import Alerts
from ledger_svc.store.cache_policies import CachePolicies
from ledger_svc.store.charge_sums import ChargeSums
from ledger_svc.store.endpoints import Endpoints
from ledger_svc.store.movements import Movements
from ledger_svc.store.outbox import Outbox
from ledger_svc.store.payments import PaymentRecords
from ledger_svc.store.provider_keys import ProviderKeys
from ledger_svc.store.requests import RequestLog
from ledger_svc.store.sealing import Sealer
from ledger_svc.store.trail_records import TrailRecords
from ledger_svc.store.usage import UsageSums
from ledger_svc.wiring.parts import Assembly, Parts
from tallygate.ledger.v1.account_pb2_grpc import add_AccountServiceServicer_to_server
from tallygate.ledger.v1.audit_pb2_grpc import add_AuditServiceServicer_to_server
from tallygate.ledger.v1.billing_pb2_grpc import add_BillingServiceServicer_to_server
from tallygate.ledger.v1.provider_keys_pb2_grpc import add_ProviderKeyServiceServicer_to_server
from tallygate.ledger.v1.usage_pb2_grpc import add_UsageServiceServicer_to_server
from tallygate.ledger.v1.webhooks_pb2_grpc import add_WebhookServiceServicer_to_server


def add_account(assembly: Assembly, parts: Parts, provider: PaymentProvider | None) -> None:
    """Adds the services and what they need done beside them. ``provider``: of payments; None: none are taken."""
    accounts = AccountService(parts.directory, parts.clock, parts.make_id)
    policies = CachePolicyService(
        policies=CachePolicies(parts.database, parts.writer, parts.trail),
        keys=parts.keys,
        revocations=parts.revocations,
        installation=parts.cache_policy,
        clock=parts.clock,
        make_id=parts.make_id,
    )
    assembly.serve(add_AccountServiceServicer_to_server, AccountServicer(accounts, parts.keys, policies))
    _add_audit(assembly, parts)
    _add_usage(assembly, parts)
    _add_provider_keys(assembly, parts)
    _add_webhooks(assembly, parts)
    _add_billing(assembly, parts, provider)


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
    assembly.run(lambda: changes.run(settings.revocation_poll_s, lambda: parts.writer.is_leading))
    assembly.run(lambda: Rewrapping(store).run(settings.rewrap_interval_s))


def _add_webhooks(assembly: Assembly, parts: Parts) -> None:
    """Webhooks, their deliveries, and the alerts that they tell of."""
    settings, clock, make_id, writer = parts.settings, parts.clock, parts.make_id, parts.writer
    resolver = SystemResolver()
    assembly.close(resolver.close)
    carrier = WebhookClient(
        settings.webhook_destinations(),
        tls_context(settings.webhook_ca_file),
        resolver,
        timeout_s=settings.webhook_timeout_s,
    )
    lockbox = Lockbox(settings.secrets_key_bytes(), "webhook secrets", secrets.token_bytes)
    outbox = Outbox(parts.database, writer, parts.trail)
    courier = Courier(
        outbox=outbox,
        carrier=carrier,
        lockbox=lockbox,
        clock=clock,
        make_id=make_id,
        random=random.random,
        is_leading=lambda: writer.is_leading,
        limits=CourierLimits(
            failing_days=settings.webhook_failing_days, retention_days=settings.webhook_retention_days
        ),
    )
    webhooks = WebhookService(
        endpoints=Endpoints(parts.database, writer, parts.trail),
        outbox=outbox,
        directory=parts.directory,
        carrier=carrier,
        lockbox=lockbox,
        clock=clock,
        make_id=make_id,
        random_bytes=secrets.token_bytes,
        queued=courier.nudge,
    )
    alerts = AlertService(
        alerts=Alerts(parts.database, writer),
        clock=clock,
        is_leading=lambda: writer.is_leading,
        told=courier.nudge,
    )
    assembly.serve(add_WebhookServiceServicer_to_server, WebhookServicer(webhooks, alerts))
    assembly.run(lambda: alerts.run(settings.alert_interval_s))
    assembly.run(lambda: courier.run(settings.webhook_poll_s))


def _add_billing(assembly: Assembly, parts: Parts, provider: PaymentProvider | None) -> None:
    payments = PaymentRecords(parts.database, parts.writer, parts.trail, Sealer(parts.keyring))
    clock, make_id = parts.clock, parts.make_id
    servicer = BillingServicer(
        payments=PaymentService(
            payments=payments,
            provider=provider,
            clock=clock,
            make_id=make_id,
            till=provider if isinstance(provider, LocalPayments) else None,
        ),
        refunds=RefundService(payments=payments, provider=provider, clock=clock, make_id=make_id),
        bills=BillService(ChargeSums(parts.database)),
    )
    assembly.serve(add_BillingServiceServicer_to_server, servicer)


def _add_usage(assembly: Assembly, parts: Parts) -> None:
    sums = UsageSums(parts.database, parts.writer)
    usage = UsageService(sums=sums, requests=RequestLog(parts.database), movements=Movements(parts.database))
    assembly.serve(add_UsageServiceServicer_to_server, UsageServicer(usage))
    assembly.run(lambda: UsageFolding(sums).run(parts.settings.usage_interval_s))
