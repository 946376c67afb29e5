"""What a new installation needs before its first request: an organisation, a project, credit and a key."""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from meshkit.deadlines import deadline
from meshkit.errors import mesh_errors
from meshkit.money import NANO_PER_USD
from tallygate.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from tallygate_deploy.data_dir import DataDir, Tenant

STARTING_CREDIT_NANO_USD = 10 * NANO_PER_USD
_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Welcome:
    """What the operator is told at the start."""

    tenant: Tenant
    api_key: str | None
    """A new key's secret; None when the installation existed and no key was asked for."""
    first: bool


async def provision(data: DataDir, ledger_channel: grpc.aio.Channel, *, mint_key: bool) -> Welcome:
    """Makes the tenant on the first start; later, a further key if ``mint_key``.

    Safe to repeat after a crash: the credit is added under one idempotency key for each organisation.
    """
    ledger = ledger_pb2_grpc.LedgerServiceStub(ledger_channel)
    tenant = data.tenant()
    first = tenant is None
    with deadline(_TIMEOUT_S), mesh_errors():
        if tenant is None:
            tenant = await _make_tenant(ledger)
            data.save_tenant(tenant)
        secret = None
        if first or mint_key:
            key = await ledger.CreateKey(
                ledger_pb2.CreateKeyRequest(
                    org_id=tenant.org_id, project_id=tenant.project_id, name="first key" if first else "ready-file key"
                )
            )
            secret = key.secret
    return Welcome(tenant, secret, first)


async def _make_tenant(ledger: ledger_pb2_grpc.LedgerServiceAsyncStub) -> Tenant:
    org = await ledger.CreateOrganization(ledger_pb2.CreateOrganizationRequest(name="default"))
    project = await ledger.CreateProject(ledger_pb2.CreateProjectRequest(org_id=org.org_id, name="default"))
    await ledger.AddCredit(
        ledger_pb2.AddCreditRequest(
            org_id=org.org_id,
            amount_nano_usd=STARTING_CREDIT_NANO_USD,
            idempotency_key="starting-credit",
            kind=ledger_pb2.CREDIT_KIND_PROMOTIONAL,
        )
    )
    return Tenant(org.org_id, project.project_id)
