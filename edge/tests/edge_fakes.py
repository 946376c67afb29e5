"""Fake services for the edge: real servicers with scripted answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from edge.wire.header_lines import HeaderLines
from meshkit.errors import MeshError, maps_errors
from tallygate.cache.v1 import cache_pb2, cache_pb2_grpc, fills_pb2, fills_pb2_grpc, flights_pb2, flights_pb2_grpc
from tallygate.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from tallygate.common.v1 import money_pb2, principal_pb2
from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from tallygate.router.v1 import router_pb2, router_pb2_grpc

SECRET = "tg-" + "a" * 43
USAGE = money_pb2.Usage(
    input_tokens=7,
    cached_input_tokens=2,
    output_tokens=5,
    reasoning_tokens=1,
    provenance=money_pb2.USAGE_PROVENANCE_PROVIDER,
)
PRICE = money_pb2.PriceSnapshot(
    offer_id="openai/gpt-4o-mini",
    tier=money_pb2.BILLING_TIER_PASSTHROUGH,
    rate_tiers=[
        money_pb2.RateTier(rates=money_pb2.Rates(input_pico_usd=150_000, output_pico_usd=600_000)),
        money_pb2.RateTier(
            above_input_tokens=128_000, rates=money_pb2.Rates(input_pico_usd=1, call_pico_usd=2_500_000)
        ),
    ],
    markup_bps=500,
    replay_bps=2_500,
    price_source="genai-prices",
    price_version="0.2.3",
    price_date="2026-11-01",
    catalog_revision="rev1",
)
ANSWER = b'{"id":"chatcmpl-up", "object":"chat.completion","choices":[{"message":{"content":"hi"}}]}'
CHUNKS = [b'{"choices":[{"delta":{"content":"h"}}]}', b'{"choices":[{"delta":{"content":"i"}}]}']
USAGE_CHUNK = b'{"id":"chatcmpl-up","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":6,"total_tokens":15}}'


def header_lines(headers: Mapping[str, str]) -> HeaderLines:
    return HeaderLines((name.encode(), value.encode()) for name, value in headers.items())


def refused(reason: ErrorReason.ValueType, message: str = "said by the service", **metadata: str) -> MeshError:
    return MeshError(reason, message, metadata=metadata)


@maps_errors({})
class FakeLedger(ledger_pb2_grpc.LedgerServiceServicer):
    def __init__(self) -> None:
        self.principals: dict[str, principal_pb2.Principal] = {
            SECRET: principal_pb2.Principal(org_id="org_1", project_id="prj_1", key_id="key_1")
        }
        self.revoked: set[str] = set()
        self.policy = ledger_pb2.KeyPolicy()
        self.cache = ledger_pb2.CachePolicy()
        self.valid_for_ms = 5_000
        self.authenticated = 0
        self.authenticate_error: MeshError | None = None
        self.authenticate_gate: asyncio.Event | None = None
        self.charges: list[ledger_pb2.ChargeRequest] = []
        self.charge_errors: list[MeshError] = []
        self.charge_gate: asyncio.Event | None = None
        self.holds: list[ledger_pb2.ReserveRequest] = []
        self.reserve_error: MeshError | None = None
        self.settlements: list[ledger_pb2.SettleRequest] = []
        self.releases: list[ledger_pb2.ReleaseRequest] = []
        self.hold_ended = asyncio.Event()
        self.receipts: dict[tuple[str, str], ledger_pb2.Receipt] = {}
        self.watchers: list[asyncio.Queue[ledger_pb2.WatchRevocationsResponse | None]] = []
        self.watching = asyncio.Event()

    async def Authenticate(self, request: Any, context: Any) -> ledger_pb2.AuthenticateResponse:
        self.authenticated += 1
        if self.authenticate_error:
            raise self.authenticate_error
        if self.authenticate_gate:
            await self.authenticate_gate.wait()
        principal = self.principals.get(request.secret)
        if principal is None:
            raise refused(ErrorReason.ERROR_REASON_INVALID_API_KEY, "The API key is not known.")
        if principal.key_id in self.revoked:
            raise refused(ErrorReason.ERROR_REASON_API_KEY_REVOKED, "The API key was revoked.")
        return ledger_pb2.AuthenticateResponse(
            principal=principal, policy=self.policy, valid_for_ms=self.valid_for_ms, cache=self.cache
        )

    async def WatchRevocations(self, request: Any, context: Any) -> AsyncIterator[ledger_pb2.WatchRevocationsResponse]:
        queue: asyncio.Queue[ledger_pb2.WatchRevocationsResponse | None] = asyncio.Queue()
        self.watchers.append(queue)
        yield ledger_pb2.WatchRevocationsResponse()
        self.watching.set()
        while (change := await queue.get()) is not None:
            yield change

    def tell(self, key_id: str | None) -> None:
        """Tells the watchers of a revoked key; None ends their watch."""
        self._tell(None if key_id is None else ledger_pb2.WatchRevocationsResponse(key_id=key_id))

    def tell_organization(self, org_id: str) -> None:
        """Tells the watchers of something that all keys of an organisation inherit."""
        self._tell(ledger_pb2.WatchRevocationsResponse(org_id=org_id))

    def _tell(self, change: ledger_pb2.WatchRevocationsResponse | None) -> None:
        for queue in self.watchers:
            queue.put_nowait(change)

    async def Charge(self, request: Any, context: Any) -> ledger_pb2.ChargeResponse:
        self.charges.append(request)
        if self.charge_gate:
            await self.charge_gate.wait()
        if self.charge_errors:
            raise self.charge_errors.pop(0)
        return ledger_pb2.ChargeResponse(
            receipt=ledger_pb2.Receipt(receipt_id="rcpt_replay", charged_nano_usd=1_340, facts=request.facts)
        )

    async def Reserve(self, request: Any, context: Any) -> ledger_pb2.ReserveResponse:
        self.holds.append(request)
        if self.reserve_error:
            raise self.reserve_error
        return ledger_pb2.ReserveResponse(hold_id="hold_1", amount_nano_usd=request.amount_nano_usd)

    async def Settle(self, request: Any, context: Any) -> ledger_pb2.SettleResponse:
        self.settlements.append(request)
        self.hold_ended.set()
        return ledger_pb2.SettleResponse(
            receipt=ledger_pb2.Receipt(receipt_id="rcpt_live", charged_nano_usd=1_340, facts=request.facts)
        )

    async def Release(self, request: Any, context: Any) -> ledger_pb2.ReleaseResponse:
        self.releases.append(request)
        self.hold_ended.set()
        return ledger_pb2.ReleaseResponse()

    async def GetReceipt(self, request: Any, context: Any) -> ledger_pb2.GetReceiptResponse:
        receipt = self.receipts.get((request.org_id, request.receipt_id))
        if receipt is None:
            raise refused(ErrorReason.ERROR_REASON_NOT_FOUND)
        return ledger_pb2.GetReceiptResponse(receipt=receipt, jws="a.b.c")

    async def GetInclusionProof(self, request: Any, context: Any) -> ledger_pb2.GetInclusionProofResponse:
        if (request.org_id, request.receipt_id) not in self.receipts:
            raise refused(ErrorReason.ERROR_REASON_NOT_FOUND)
        return ledger_pb2.GetInclusionProofResponse(
            jws="a.b.c", leaf_index=4, tree_size=request.tree_size or 7, hashes=[b"\xff" * 32], checkpoint="note\n"
        )

    async def GetCheckpoint(self, request: Any, context: Any) -> ledger_pb2.GetCheckpointResponse:
        if request.tree_size > 7:
            raise refused(ErrorReason.ERROR_REASON_NOT_FOUND, "no checkpoint of this size")
        return ledger_pb2.GetCheckpointResponse(checkpoint=f"log\n{request.tree_size or 7}\n\n\u2014 log x\n")

    async def GetConsistencyProof(self, request: Any, context: Any) -> ledger_pb2.GetConsistencyProofResponse:
        if request.second_size > 7:
            raise refused(ErrorReason.ERROR_REASON_INVALID_REQUEST, "second_size: is 8", param="second_size")
        return ledger_pb2.GetConsistencyProofResponse(
            first_size=request.first_size, second_size=request.second_size or 7, hashes=[b"\x00" * 32]
        )

    async def ListSigningKeys(self, request: Any, context: Any) -> ledger_pb2.ListSigningKeysResponse:
        keys = [
            ledger_pb2.SigningKey(kid="new", public_key=b"\xfb" * 32, current=True),
            ledger_pb2.SigningKey(kid="old", public_key=b"\x00" * 32),
        ]
        return ledger_pb2.ListSigningKeysResponse(keys=keys, log_origin="log")


@maps_errors({})
class FakeCache(cache_pb2_grpc.CacheServiceServicer):
    def __init__(self) -> None:
        self.lookups: list[cache_pb2.LookupRequest] = []
        self.gate: asyncio.Event | None = None
        self.error: MeshError | None = None
        self.script: list[cache_pb2.LookupResponse] = []
        """Answered first, in order."""
        self.answer = cache_pb2.LookupResponse(
            miss=cache_pb2.Miss(
                reason=cache_pb2.Miss.REASON_NOT_STORED,
                ticket=cache_pb2.Ticket(key=b"k" * 32, endpoint="chat/completions"),
            )
        )

    def holds(
        self,
        *,
        stream: bool,
        usage_chunk: bytes = b"",
        tier: cache_pb2.ReplayTier.ValueType = cache_pb2.REPLAY_TIER_EXACT,
    ) -> None:
        """From now on every request is a hit."""
        self.answer = cache_pb2.LookupResponse(
            hit=cache_pb2.Hit(
                tier=tier,
                openai_body=b"" if stream else ANSWER,
                chunks=CHUNKS if stream else [],
                usage_chunk=usage_chunk,
                usage=USAGE,
                price=PRICE,
                origin_receipt_id="rcpt_origin",
                source_id="openai",
                upstream_model="gpt-4o-mini-2024-07-18",
                age_ms=61_500,
                key_digest="d" * 64,
            )
        )

    async def Lookup(self, request: Any, context: Any) -> cache_pb2.LookupResponse:
        self.lookups.append(request)
        if self.gate:
            await self.gate.wait()
        if self.error:
            raise self.error
        return self.script.pop(0) if self.script else self.answer


@maps_errors({})
class FakeFlights(flights_pb2_grpc.FlightServiceServicer):
    """Whoever boards leads, unless ``script`` says otherwise."""

    def __init__(self) -> None:
        self.boarded: list[flights_pb2.BoardRequest] = []
        self.script: list[flights_pb2.BoardResponse | MeshError] = []
        self.leads = True
        self.renewed: list[flights_pb2.RenewRequest] = []
        self.landed: list[flights_pb2.LandRequest] = []
        self.land_error: MeshError | None = None
        self.abandoned: list[flights_pb2.AbandonRequest] = []
        self.ended = asyncio.Event()

    @staticmethod
    def lead(run: int = 0) -> flights_pb2.BoardResponse:
        ticket = flights_pb2.FlightPass(name=b"n" * 32, token="flt", run=run, fingerprint=b"b" * 32)
        return flights_pb2.BoardResponse(lead=ticket)

    async def Board(self, request: Any, context: Any) -> flights_pb2.BoardResponse:
        self.boarded.append(request)
        answer = self.script.pop(0) if self.script else self.lead()
        if isinstance(answer, MeshError):
            raise answer
        return answer

    async def Renew(self, request: Any, context: Any) -> flights_pb2.RenewResponse:
        self.renewed.append(request)
        return flights_pb2.RenewResponse(leads=self.leads)

    async def Land(self, request: Any, context: Any) -> flights_pb2.LandResponse:
        if self.land_error:
            raise self.land_error
        self.landed.append(request)
        self.ended.set()
        return flights_pb2.LandResponse(kept=flights_pb2.LandResponse.KEPT_WHOLE)

    async def Abandon(self, request: Any, context: Any) -> flights_pb2.AbandonResponse:
        self.abandoned.append(request)
        self.ended.set()
        return flights_pb2.AbandonResponse(abandoned=True)


@maps_errors({})
class FakeFills(fills_pb2_grpc.FillServiceServicer):
    """Who follows hears the next script, the last one for ever."""

    def __init__(self) -> None:
        self.followed: list[fills_pb2.FollowRequest] = []
        self.scripts: list[list[fills_pb2.FollowResponse | MeshError | asyncio.Event]] = []

    async def Follow(self, request: Any, context: Any) -> AsyncIterator[fills_pb2.FollowResponse]:
        number = len(self.followed)
        self.followed.append(request)
        for step in self.scripts[min(number, len(self.scripts) - 1)]:
            if isinstance(step, asyncio.Event):
                await step.wait()
            elif isinstance(step, MeshError):
                raise step
            elif request.live or step.HasField("ended"):
                yield step


@maps_errors({})
class FakeRouter(router_pb2_grpc.RouterServiceServicer):
    def __init__(self) -> None:
        self.requests: list[router_pb2.CompleteRequest] = []
        self.script: list[router_pb2.CompleteResponse | MeshError | asyncio.Event] = []
        self.cancelled = asyncio.Event()
        self.begun = asyncio.Event()
        self.traceparents: list[str] = []

    def answers(self, body: bytes = ANSWER) -> None:
        """From now on every request gets ``body``."""
        self.script = [self.route(), self.final(openai_body=body)]

    def streams(self, *, usage_chunk: bytes = USAGE_CHUNK, usage: money_pb2.Usage = USAGE) -> None:
        """From now on every request gets the stream of CHUNKS."""
        self.script = [self.route(), *map(self.chunk, CHUNKS), self.final(usage_chunk=usage_chunk, usage=usage)]

    @staticmethod
    def route() -> router_pb2.CompleteResponse:
        return router_pb2.CompleteResponse(route=router_pb2.Route(source_id="openai"))

    @staticmethod
    def chunk(*payloads: bytes) -> router_pb2.CompleteResponse:
        return router_pb2.CompleteResponse(chunks=router_pb2.Chunks(payloads=payloads))

    @staticmethod
    def final(
        *, openai_body: bytes = b"", usage_chunk: bytes = b"", usage: money_pb2.Usage = USAGE
    ) -> router_pb2.CompleteResponse:
        return router_pb2.CompleteResponse(
            final=router_pb2.Final(
                openai_body=openai_body,
                usage_chunk=usage_chunk,
                usage=usage,
                charged_nano_usd=5_355,
                receipt_id="rcpt_fresh",
            )
        )

    async def Complete(self, request: Any, context: Any) -> AsyncIterator[router_pb2.CompleteResponse]:
        self.requests.append(request)
        metadata: Mapping[str, Any] = dict(context.invocation_metadata())
        self.traceparents.append(str(metadata.get("traceparent", "")))
        self.begun.set()
        try:
            for step in self.script:
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, MeshError):
                    raise step
                else:
                    yield step
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@maps_errors({})
class FakeCatalog(catalog_pb2_grpc.CatalogServiceServicer):
    def __init__(self) -> None:
        self.known: list[str] = []
        self.watchers: list[asyncio.Queue[catalog_pb2.Snapshot | None]] = []
        self.current: catalog_pb2.Snapshot | None = catalog_pb2.Snapshot(
            revision="rev1",
            models=[
                catalog_pb2.Model(
                    id="gpt-4o-mini",
                    display_name="GPT-4o mini",
                    owned_by="openai",
                    context_tokens=128_000,
                    max_output_tokens=16_384,
                    capabilities=catalog_pb2.Capabilities(tools=True, vision=True),
                    policy_epoch="epoch1",
                    released_at_s=1_721_260_800,
                ),
                catalog_pb2.Model(id="local/smollm2-135m-instruct", owned_by="local"),
            ],
            aliases=[
                catalog_pb2.Alias(name="tallygate/fast", model_id="gpt-4o-mini"),
                catalog_pb2.Alias(name="tallygate/lost", model_id="gone"),
            ],
        )

    def publish(self, snapshot: catalog_pb2.Snapshot) -> None:
        self.current = snapshot
        for queue in self.watchers:
            queue.put_nowait(snapshot)

    async def WatchSnapshot(self, request: Any, context: Any) -> AsyncIterator[catalog_pb2.WatchSnapshotResponse]:
        self.known.append(request.known_revision)
        queue: asyncio.Queue[catalog_pb2.Snapshot | None] = asyncio.Queue()
        self.watchers.append(queue)
        if self.current is not None and self.current.revision != request.known_revision:
            yield catalog_pb2.WatchSnapshotResponse(snapshot=self.current)
        while (snapshot := await queue.get()) is not None:
            yield catalog_pb2.WatchSnapshotResponse(snapshot=snapshot)
