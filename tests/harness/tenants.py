"""Organisations, keys and balances of a running gateway, over the ledger's own API."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from meshkit.channels import Dialer
from meshkit.deadlines import deadline
from meshkit.ids import new_id
from meshkit.telemetry import Telemetry
from tallygate.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from tests.harness.background import BackgroundLoop

if TYPE_CHECKING:
    from collections.abc import Callable

    Ledger = ledger_pb2_grpc.LedgerServiceAsyncStub

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NewKey:
    """An API key and whose it is."""

    org_id: str
    project_id: str
    key_id: str
    secret: str


class Tenants:
    """Blocking calls, so that any test can make them; the channel lives in the background loop."""

    def __init__(self, background: BackgroundLoop, ledger_addr: str) -> None:
        self._background = background
        self._ledger_addr = ledger_addr

    def make(
        self, credit_nano_usd: int = 0, *, allowed_models: tuple[str, ...] = (), requests_per_minute: int = 0
    ) -> NewKey:
        """An organisation of its own with a project, a key and credit. ``requests_per_minute`` 0: no limit."""

        async def make(ledger: Ledger) -> NewKey:
            org = await ledger.CreateOrganization(ledger_pb2.CreateOrganizationRequest(name=new_id("test")))
            project = await ledger.CreateProject(ledger_pb2.CreateProjectRequest(org_id=org.org_id, name="test"))
            if credit_nano_usd:
                credit = ledger_pb2.AddCreditRequest(
                    org_id=org.org_id,
                    amount_nano_usd=credit_nano_usd,
                    idempotency_key="test",
                    kind=ledger_pb2.CREDIT_KIND_PAID,
                )
                await ledger.AddCredit(credit)
            request = ledger_pb2.CreateKeyRequest(
                org_id=org.org_id,
                project_id=project.project_id,
                name="test",
                allowed_models=allowed_models,
                policy=ledger_pb2.KeyPolicy(requests_per_minute=requests_per_minute),
            )
            key = await ledger.CreateKey(request)
            return NewKey(org.org_id, project.project_id, key.key.key_id, key.secret)

        return self._ask(make)

    def account_key(self, tenant: NewKey, *, read_only: bool = False) -> str:
        """The secret of a new key that manages the tenant's account."""
        policy = ledger_pb2.KeyPolicy(scope=ledger_pb2.KEY_SCOPE_ACCOUNT, read_only=read_only)
        request = ledger_pb2.CreateKeyRequest(
            org_id=tenant.org_id, project_id=tenant.project_id, name="account", policy=policy
        )
        made: ledger_pb2.CreateKeyResponse = self._ask(lambda ledger: _result(ledger.CreateKey(request)))
        return made.secret

    def cap(self, key: NewKey, limit: int, unit: ledger_pb2.CapUnit.ValueType = ledger_pb2.CAP_UNIT_NANO_USD) -> None:
        """Bounds what the key may spend in a day."""
        request = ledger_pb2.SetCapRequest(
            org_id=key.org_id,
            scope=ledger_pb2.CAP_SCOPE_KEY,
            scope_id=key.key_id,
            period=ledger_pb2.CAP_PERIOD_DAY,
            unit=unit,
            limit=limit,
        )
        self._ask(lambda ledger: _result(ledger.SetCap(request)))

    def revoke(self, key: NewKey) -> None:
        """End the key."""
        request = ledger_pb2.RevokeKeyRequest(key_id=key.key_id)
        self._ask(lambda ledger: _result(ledger.RevokeKey(request)))

    def balance(self, org_id: str) -> ledger_pb2.Balance:
        """What the organisation has and holds."""
        request = ledger_pb2.GetBalanceRequest(org_id=org_id)
        answer: ledger_pb2.GetBalanceResponse = self._ask(lambda ledger: _result(ledger.GetBalance(request)))
        return answer.balance

    def receipts(self, org_id: str) -> list[ledger_pb2.Receipt]:
        """All receipts of the organisation, newest first; at most 1,000."""
        request = ledger_pb2.ListReceiptsRequest(org_id=org_id, page_size=1_000)
        return list(self._ask(lambda ledger: _result(ledger.ListReceipts(request))).receipts)

    def _ask(self, question: Callable[[Ledger], Coroutine[Any, Any, T]]) -> T:
        async def ask() -> T:
            async with Dialer(Telemetry.off("tests")) as dial:
                with deadline(20.0):
                    return await question(ledger_pb2_grpc.LedgerServiceStub(dial(self._ledger_addr)))

        return self._background.run(ask())


async def _result(call: Any) -> Any:
    return await call
