"""Clients that keep Tallygate busy, each in a loop of its own, and note in the journal what they were told.

To put another kind of request under faults, add a method of ``HttpClient`` or ``LedgerClient`` to its ``kinds``.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import orjson

from meshkit import codec
from meshkit.channels import Dialer
from meshkit.codec import principal_to_proto
from meshkit.deadlines import deadline
from meshkit.errors import MeshError, mesh_errors
from meshkit.ids import new_id
from meshkit.money import parse_usd
from meshkit.principal import Principal
from meshkit.telemetry import Telemetry
from tallygate.ledger.v1 import ledger_pb2 as pb
from tallygate.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from tests.bench.ledger_spending import MODEL, PRICE, USAGE
from tests.faults.deployments import Deployment
from tests.faults.journal import Journal, Told

REQUEST_S = 12.0
RETRY_S, AWAY_S, PAUSE_S = 0.05, 0.25, 0.02
FINE = ("200", "left", "402")
CALL_S = 2.0
GIVE_UP_S = 8.0
RICH_NANO_USD, POOR_NANO_USD = 10**12, 105 * 10**6
"""The poor one has enough for ten calls of test/per-call, and asks for many more."""
DIRECT_HOLD_MS = 3_000

Ask = Callable[[], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Tenant:
    """An organisation, and a key of it."""

    principal: Principal
    secret: str

    @property
    def org_id(self) -> str:
        return self.principal.org_id


class HttpClient:
    """Talks to the edge."""

    def __init__(self, deployment: Deployment, journal: Journal, rich: Tenant, poor: Tenant, seed: int) -> None:
        self._deployment = deployment
        self._journal = journal
        self._rich, self._poor = rich, poor
        self._random = random.Random(seed)
        self._http = httpx.AsyncClient(timeout=REQUEST_S)
        self.kinds: Sequence[Ask] = (self.plain, self.stream, self.replay, self.leave, self.duplicate, self.poor)

    async def run(self, stop: asyncio.Event) -> None:
        """Asks one after the other until told to stop."""
        async with self._http:
            while not stop.is_set():
                kind = self._random.choice(self.kinds)
                try:
                    ending = await kind()
                except httpx.HTTPError as error:  # killed under the request, or not there yet: nothing was told
                    ending = type(error).__name__
                if not ending.startswith(FINE):
                    await asyncio.sleep(AWAY_S)  # as a client does, or those that start again would have no share
                self._journal.answers[f"{getattr(kind, '__name__', '')} {ending}"] += 1

    async def plain(self) -> str:
        """A question of which the cache knows nothing."""
        return await self._ask(self._rich, "test/ok", secrets.token_hex(8))

    async def replay(self) -> str:
        """One of few questions, which the cache soon knows."""
        return await self._ask(self._rich, "test/ok", f"question {self._random.randrange(5)}")

    async def poor(self) -> str:
        """A call that costs what it holds, by someone who soon has nothing left."""
        return await self._ask(self._poor, "test/per-call", secrets.token_hex(8))

    async def duplicate(self) -> str:
        """Twice the same at once: two operations, each charged once."""
        content = secrets.token_hex(8)
        endings = await asyncio.gather(
            *(self._ask(self._rich, "test/slow-first-byte", content) for _ in range(2)), return_exceptions=True
        )
        for ending in endings:
            if isinstance(ending, BaseException):
                raise ending
        return "+".join(sorted(map(str, endings)))

    async def stream(self) -> str:
        """A stream of about half a second, read to its end."""
        headers = self._begin(self._rich)
        body = _body("test/slow-chunks", secrets.token_hex(4) + " and some words more", stream=True)
        last: dict[str, Any] = {}
        async with self._http.stream("POST", self._url, headers=headers, content=body) as response:
            if response.status_code != httpx.codes.OK:
                return str(response.status_code)
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    last = orjson.loads(line.removeprefix("data: "))
        if "tallygate" not in last:
            return "broken off"
        self._note(self._rich, last["tallygate"]["receipt_id"], last["tallygate"]["cost_usd"])
        return "200"

    async def leave(self) -> str:
        """A stream whose client goes away in its middle."""
        headers = self._begin(self._rich)
        body = _body("test/slow-chunks", secrets.token_hex(4), stream=True)
        async with self._http.stream("POST", self._url, headers=headers, content=body) as response:
            if response.status_code != httpx.codes.OK:
                return str(response.status_code)
            await anext(response.aiter_lines(), "")
            return "left"

    async def _ask(self, tenant: Tenant, model: str, content: str) -> str:
        headers = self._begin(tenant)
        response = await self._http.post(self._url, headers=headers, content=_body(model, content))
        if response.status_code == httpx.codes.OK:
            self._note(tenant, response.headers["x-receipt-id"], response.headers["x-cost-usd"])
        return str(response.status_code)

    @property
    def _url(self) -> str:
        return f"{self._deployment.base_url}/chat/completions"

    def _begin(self, tenant: Tenant) -> dict[str, str]:
        """The receipt carries the trace that its client began: so it is known whose it is, though nobody was told."""
        trace_id = secrets.token_hex(16)
        self._journal.operation(trace_id)
        return {
            "authorization": f"Bearer {tenant.secret}",
            "content-type": "application/json",
            "traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01",
        }

    def _note(self, tenant: Tenant, receipt_id: str, cost_usd: str) -> None:
        self._journal.told.add(Told(tenant.org_id, receipt_id, parse_usd(cost_usd)))


class LedgerClient:
    """Talks to the ledger as the router does, and worse: sends each command twice at once, and again until answered."""

    def __init__(self, deployment: Deployment, journal: Journal, rich: Tenant, seed: int) -> None:
        self._deployment = deployment
        self._journal = journal
        self._tenant = rich
        self._random = random.Random(seed)
        self._dial = Dialer(Telemetry.off("faults"))
        self.kinds: Sequence[Ask] = (self.settle, self.settle, self.settle, self.charge, self.credit, self.forget)

    async def run(self, stop: asyncio.Event) -> None:
        """One after the other until told to stop."""
        async with self._dial:
            while not stop.is_set():
                kind = self._random.choice(self.kinds)
                try:
                    ending = await kind()
                except MeshError as error:
                    ending = error.status.name
                await asyncio.sleep(PAUSE_S)
                self._journal.answers[f"ledger {getattr(kind, '__name__', '')} {ending}"] += 1

    async def settle(self) -> str:
        """Hold and settle."""
        request_id = new_id("req")
        self._journal.operation(request_id)
        await self._twice("Reserve", self._hold(request_id))
        attempt = pb.Attempt(offer_id=PRICE.offer_id, started_at_ms=1, duration_ms=2, http_status=200, won=True)
        facts = _facts(pb.SERVED_MODE_FRESH)
        request = pb.SettleRequest(org_id=self._tenant.org_id, request_id=request_id, facts=facts, attempts=[attempt])
        self._note(await self._twice("Settle", request))
        return "ok"

    async def charge(self) -> str:
        """For a replay."""
        request_id = new_id("req")
        self._journal.operation(request_id)
        principal, facts = principal_to_proto(self._tenant.principal), _facts(pb.SERVED_MODE_EXACT)
        self._note(
            await self._twice("Charge", pb.ChargeRequest(principal=principal, request_id=request_id, facts=facts))
        )
        return "ok"

    async def credit(self) -> str:
        """Added once."""
        name = new_id("credit")
        request = pb.AddCreditRequest(
            org_id=self._tenant.org_id, amount_nano_usd=7, idempotency_key=name, kind=pb.CREDIT_KIND_PAID
        )
        await self._twice("AddCredit", request)
        self._journal.credits[self._tenant.org_id, name] = 7
        return "ok"

    async def forget(self) -> str:
        """A hold that nobody will settle."""
        await self._twice("Reserve", self._hold(new_id("req")))
        return "ok"

    def _hold(self, request_id: str) -> pb.ReserveRequest:
        principal = principal_to_proto(self._tenant.principal)
        return pb.ReserveRequest(
            principal=principal, request_id=request_id, amount_nano_usd=10**6, ttl_ms=DIRECT_HOLD_MS, model=MODEL
        )

    def _note(self, answers: Sequence[Any]) -> None:
        for answer in answers:
            receipt = answer.receipt
            self._journal.told.add(Told(receipt.org_id, receipt.receipt_id, receipt.charged_nano_usd))

    async def _twice(self, method: str, request: Any) -> list[Any]:
        """Both answers; that they are of one operation is the journal's to see.

        Raises:
            MeshError: refused, or no answer for ``GIVE_UP_S``.
        """
        first, second = await asyncio.gather(*(self._once(method, request) for _ in range(2)), return_exceptions=True)
        for answer in (first, second):
            if isinstance(answer, BaseException):
                raise answer
        return [first, second]

    async def _once(self, method: str, request: Any) -> Any:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + GIVE_UP_S
        while True:
            stub: Any = LedgerServiceStub(self._dial(self._deployment.ledger_address))
            try:
                with deadline(CALL_S, detached=True), mesh_errors():
                    return await getattr(stub, method)(request, timeout=CALL_S)
            except MeshError as error:
                away = error.status in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
                if not away or loop.time() > give_up_at:
                    raise
            await asyncio.sleep(RETRY_S)


async def found_tenant(deployment: Deployment, credit_nano_usd: int) -> Tenant:
    """Makes an organisation with credit and a key."""
    async with Dialer(Telemetry.off("faults")) as dial:
        ledger = LedgerServiceStub(dial(deployment.ledger_address))
        with deadline(20.0), mesh_errors():
            org_id = (await ledger.CreateOrganization(pb.CreateOrganizationRequest(name="faults"))).org_id
            project = await ledger.CreateProject(pb.CreateProjectRequest(org_id=org_id, name="faults"))
            credit = pb.AddCreditRequest(
                org_id=org_id, amount_nano_usd=credit_nano_usd, idempotency_key="first", kind=pb.CREDIT_KIND_PAID
            )
            await ledger.AddCredit(credit)
            key = await ledger.CreateKey(
                pb.CreateKeyRequest(org_id=org_id, project_id=project.project_id, name="faults")
            )
    return Tenant(Principal(org_id, project.project_id, key.key.key_id, ()), key.secret)


def _body(model: str, content: str, *, stream: bool = False) -> bytes:
    request: dict[str, Any] = {"model": model, "temperature": 0, "messages": [{"role": "user", "content": content}]}
    if stream:
        request |= {"stream": True, "stream_options": {"include_usage": True}}
    return orjson.dumps(request)


def _facts(mode: pb.ServedMode.ValueType) -> pb.ChargeFacts:
    return pb.ChargeFacts(
        usage=codec.usage_to_proto(USAGE),
        price=codec.price_to_proto(PRICE),
        served_mode=mode,
        outcome=pb.OUTCOME_COMPLETE,
        requested_model=MODEL,
        model=MODEL,
        source_id="openai",
        upstream_model=MODEL,
        origin_receipt_id="" if mode == pb.SERVED_MODE_FRESH else "rcpt_origin",
    )
