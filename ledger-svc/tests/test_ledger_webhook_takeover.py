"""The writer is killed while it delivers an alert: another process tells what is left, and nothing that was told."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from ledger_processes import a_payer, processes

from ledger_svc.domain.charges import ChargeFacts
from ledger_svc.servicer.wire import facts_to_proto
from ledger_svc.store.database import Database
from meshkit.channels import Dialer
from meshkit.telemetry import Telemetry
from tallygate.ledger.v1 import ledger_pb2 as pb
from tallygate.ledger.v1 import webhooks_pb2
from tallygate.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from tallygate.ledger.v1.webhooks_pb2_grpc import WebhookServiceStub
from tests.webhooks.receiver import LOOPBACK, Received, Receiver, receiver

if TYPE_CHECKING:
    from tallygate.ledger.v1.webhooks_pb2_grpc import WebhookServiceAsyncStub

NewFacts = Callable[..., ChargeFacts]


@pytest.mark.timeout(120)
async def test_an_alert_whose_delivery_a_kill_interrupts_arrives_and_fires_once(
    url: str, database: Database, tmp_path: Path, new_facts: NewFacts
) -> None:
    sockets = [f"unix://{tmp_path}/{name}" for name in ("a", "b")]
    async with (
        receiver(tmp_path) as there,
        Dialer(Telemetry.off("test")) as dial,
        processes(url, **_settings(there)) as serve,
    ):
        first = await serve(sockets[0])
        await serve(sockets[1])
        channel = dial(",".join(sockets))
        ledger, webhooks = LedgerServiceStub(channel), WebhookServiceStub(channel)
        payer = await a_payer(ledger)

        async def spend(name: str, tokens: int) -> None:
            amount = tokens * 1_000
            hold = pb.ReserveRequest(
                principal=payer, request_id=name, amount_nano_usd=amount, ttl_ms=60_000, model="gpt-x"
            )
            await ledger.Reserve(hold, timeout=20)
            facts = facts_to_proto(new_facts(prompt=tokens))
            settle = pb.SettleRequest(org_id=payer.org_id, request_id=name, facts=facts)
            await ledger.Settle(settle, timeout=20)

        made = await webhooks.CreateWebhook(
            webhooks_pb2.CreateWebhookRequest(org_id=payer.org_id, url=there.url(), event_types=["*"]), timeout=20
        )
        cap = pb.SetCapRequest(
            org_id=payer.org_id,
            scope=pb.CAP_SCOPE_KEY,
            scope_id=payer.key_id,
            period=pb.CAP_PERIOD_MONTH,
            unit=pb.CAP_UNIT_NANO_USD,
            limit=100_000,
        )
        await ledger.SetCap(cap, timeout=20)
        let_go = asyncio.Event()

        async def hang(_: Received) -> web.StreamResponse:
            await let_go.wait()
            return web.Response(status=204)

        there.replies["/hook"] = hang
        await spend("half", 50)
        await there.until(1)
        first.send_signal(signal.SIGKILL)
        let_go.set()
        await spend("most", 30)
        told = Counter(got.verified(made.secret)["data"]["threshold_percent"] for got in await there.until(3))
        assert told == {50: 2, 80: 1}
        alerts = await webhooks.ListAlerts(webhooks_pb2.ListAlertsRequest(org_id=payer.org_id), timeout=20)
        assert sorted(alert.threshold_percent for alert in alerts.alerts) == [50, 80]
        log = webhooks_pb2.ListDeliveriesRequest(org_id=payer.org_id, webhook_id=made.webhook.webhook_id)
        found = await _all_delivered(webhooks, log)
        assert [delivery.attempts for delivery in found] == [1, 1]
        assert len(there.received) == 3


def _settings(there: Receiver) -> dict[str, str]:
    return {
        "SECRETS_KEYS": json.dumps({"k": "dHdv" * 10 + "dHc"}),
        "WEBHOOK_ALLOW_PRIVATE": json.dumps(LOOPBACK),
        "WEBHOOK_CA_FILE": str(there.ca_file),
        "ALERT_INTERVAL_S": "0.05",
        "WEBHOOK_POLL_S": "0.05",
    }


async def _all_delivered(
    webhooks: WebhookServiceAsyncStub, log: webhooks_pb2.ListDeliveriesRequest
) -> Sequence[webhooks_pb2.Delivery]:
    async with asyncio.timeout(20):
        while True:
            found = (await webhooks.ListDeliveries(log, timeout=20)).deliveries
            if all(delivery.state == webhooks_pb2.DELIVERY_STATE_DELIVERED for delivery in found):
                return found
            await asyncio.sleep(0.02)
