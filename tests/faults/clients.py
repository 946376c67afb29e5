"""Clients that keep Tallygate busy, each in a loop of its own, and note in the journal what they were told.

To put another kind of request under faults, add a method of ``HttpClient`` or ``LedgerClient`` to its ``kinds``.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

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
from tests.faults.journal import Capped, Journal, Operation, Told

REQUEST_S = 12.0
RETRY_S, AWAY_S, PAUSE_S = 0.05, 0.25, 0.02
KEYED_S = 15.0
FINE = ("200", "left", "402", "429")
CALL_S = 2.0
GIVE_UP_S = 8.0
RICH_NANO_USD, POOR_NANO_USD = 10**12, 105 * 10**6
"""The poor one has enough for ten calls of test/per-call, and asks for many more."""
CAP_NANO_USD = 35 * 10**6
"""Of a day, for those that have a cap: enough for three such calls, since each history has one of its own."""
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


class Tenants(NamedTuple):
    """Who can pay for anything, who soon has nothing left, and who soon meets a cap."""

    rich: Tenant
    poor: Tenant
    capped: Tenant


class HttpClient:
    """Talks to the edge."""

    def __init__(self, deployment: Deployment, journal: Journal, tenants: Tenants, seed: int) -> None:
        self._deployment = deployment
        self._journal = journal
        self._rich, self._poor, self._capped = tenants
        self._random = random.Random(seed)
        self._http = httpx.AsyncClient(timeout=REQUEST_S)
        self.kinds: Sequence[Ask] = (
            self.plain,
            self.stream,
            self.replay,
            self.leave,
            self.duplicate,
            self.poor,
            self.capped,
            self.keyed,
        )

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

    async def capped(self) -> str:
        """The same by someone whom a daily cap soon stops."""
        day, tenant = _day(), self._capped
        response = await self._post(self._begin(tenant), _body("test/per-call", secrets.token_hex(8)))
        if response.status_code == httpx.codes.OK:
            told = self._note(tenant, response.headers["x-receipt-id"], response.headers["x-cost-usd"])
            if day == _day():
                self._journal.capped.add(Capped(told.org_id, day, told.receipt_id, told.charged_nano_usd))
        return str(response.status_code)

    async def keyed(self) -> str:
        """With an `Idempotency-Key`, again until there is an answer, and once more: one operation, one answer."""
        key, operation = secrets.token_hex(8), self._journal.operation()
        body = _body(self._random.choice(["test/ok", "test/slow-first-byte"]), key)
        first = await self._persist(key, operation, body)
        if first is None or first.status_code != httpx.codes.OK:
            return "gave up" if first is None else str(first.status_code)
        self._note(self._rich, first.headers["x-receipt-id"], first.headers["x-cost-usd"])
        again = await self._persist(key, operation, body)
        if again is None:
            return "200, then gave up"
        if again.status_code == httpx.codes.OK and again.content != first.content:
            self._journal.changed.append(f"Idempotency-Key {key}")
        return f"200, then {again.status_code}"

    async def _persist(self, key: str, operation: Operation, body: bytes) -> httpx.Response | None:
        """The first answer that is not a failure; None: there was none for ``KEYED_S``."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + KEYED_S
        while loop.time() < give_up_at:
            headers = self._begin(self._rich, operation) | {"idempotency-key": key}
            with suppress(httpx.HTTPError):  # the connection is lost, and with it perhaps an answer
                response = await self._post(headers, body)
                if receipt_id := response.headers.get("x-receipt-id"):
                    operation.receipts.add(receipt_id)
                if response.status_code < httpx.codes.INTERNAL_SERVER_ERROR and not _in_use(response):
                    return response
            await asyncio.sleep(AWAY_S)
        return None

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
        response = await self._post(self._begin(tenant), _body(model, content))
        if response.status_code == httpx.codes.OK:
            self._note(tenant, response.headers["x-receipt-id"], response.headers["x-cost-usd"])
        return str(response.status_code)

    async def _post(self, headers: dict[str, str], body: bytes) -> httpx.Response:
        return await self._http.post(self._url, headers=headers, content=body)

    @property
    def _url(self) -> str:
        return f"{self._deployment.base_url}/chat/completions"

    def _begin(self, tenant: Tenant, operation: Operation | None = None) -> dict[str, str]:
        """The receipt carries the trace that its client began: so it is known whose it is, though nobody was told.
        ``operation``: that which is asked for again.
        """
        trace_id = secrets.token_hex(16)
        (operation or self._journal.operation()).names.add(trace_id)
        return {
            "authorization": f"Bearer {tenant.secret}",
            "content-type": "application/json",
            "traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01",
        }

    def _note(self, tenant: Tenant, receipt_id: str, cost_usd: str) -> Told:
        told = Told(tenant.org_id, receipt_id, parse_usd(cost_usd))
        self._journal.told.add(told)
        return told


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


async def found_tenant(deployment: Deployment, credit_nano_usd: int, cap_nano_usd: int | None = None) -> Tenant:
    """Makes an organisation with credit and a key, and with a daily cap if one is given."""
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
            if cap_nano_usd is not None:
                await ledger.SetCap(
                    pb.SetCapRequest(
                        org_id=org_id,
                        scope=pb.CAP_SCOPE_ORGANIZATION,
                        scope_id=org_id,
                        period=pb.CAP_PERIOD_DAY,
                        unit=pb.CAP_UNIT_NANO_USD,
                        limit=cap_nano_usd,
                    )
                )
    return Tenant(Principal(org_id, project.project_id, key.key.key_id, ()), key.secret)


def _day() -> int:
    """Of UTC, in which a cap counts."""
    return int(time.time() // 86_400)


def _in_use(response: httpx.Response) -> bool:
    """Whether another request with the key is still under way."""
    return response.status_code == httpx.codes.CONFLICT and b"idempotency_key_in_use" in response.content


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
