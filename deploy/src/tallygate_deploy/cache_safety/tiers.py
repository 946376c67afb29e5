"""Each tier of the cache service under judgement: the real service in this process, asked as an edge asks it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NoReturn

import grpc
import orjson

from cache_svc.settings import CacheSettings
from cache_svc.wiring import build
from meshkit.answers.fold import fold
from meshkit.channels import Dialer
from meshkit.clock import Clock
from meshkit.codec import price_to_proto, principal_to_proto, usage_to_proto
from meshkit.errors import MeshError, mesh_errors
from meshkit.local import LocalNetwork
from meshkit.money import BillingTier, PriceSnapshot, Provenance, Rates, RateTier, Usage
from meshkit.principal import Principal
from meshkit.serve import running
from meshkit.telemetry import Telemetry
from tallygate.cache.v1 import cache_pb2, cache_pb2_grpc
from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate_deploy.cache_safety.items import Asked, Group, Item
from tallygate_deploy.cache_safety.judging import Fresh, NotJudged, Replay
from tallygate_deploy.cache_safety.options import TIER_NAMES

TIERS = dict(
    zip(
        TIER_NAMES,
        (cache_pb2.REPLAY_TIER_EXACT, cache_pb2.REPLAY_TIER_CANONICAL, cache_pb2.REPLAY_TIER_SEMANTIC),
        strict=True,
    )
)
_TIER_NAMES = {number: name for name, number in TIERS.items()}
_ADDRESS = "local://cache"
_ENDPOINT = "chat/completions"
_TIMEOUT_S = 30.0
_MILLION = 1_000_000
_USAGE = Usage(input_tokens=100, output_tokens=100, provenance=Provenance.PROVIDER)
_PRICE = PriceSnapshot(
    "bench/offer", BillingTier.PASSTHROUGH, (RateTier(0, Rates(input_pico_usd=1, output_pico_usd=1)),)
)


@asynccontextmanager
async def cache_service(
    settings: CacheSettings | None = None, clock: Clock | None = None
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a cache service of its own, empty and in memory, inside the block. ``clock``: its time."""
    async with AsyncExitStack() as stack:
        network, telemetry = LocalNetwork(), Telemetry.off("cache-safety")
        settings = settings or CacheSettings(url="memory://")
        register = await stack.enter_async_context(build(settings, _no_dial, telemetry, clock=clock))
        await stack.enter_async_context(running(register, _ADDRESS, telemetry, local=network, drain_s=1.0))
        dial = await stack.enter_async_context(Dialer(telemetry, network))
        yield dial(_ADDRESS)


def settings_of(tier: str) -> CacheSettings:
    """Of a service that can be asked up to the tier. With the semantic one, it starts with its packages only, and else
    raises ``SemanticMissing``.
    """
    return CacheSettings(url="memory://", semantic=tier == "semantic")


def sign_of(tier: str) -> str:
    """What tells a replay by the tier."""
    return f"{tier} tier"


class TierCache:
    """The cache service, asked up to one tier. ``max_error``: of the semantic tier, the share that may be wrong."""

    def __init__(self, channel: grpc.aio.Channel, tier: str, *, max_error: float) -> None:
        self._stub = cache_pb2_grpc.CacheServiceStub(channel)
        self._tier = tier
        self._max_error_ppm = max(1, round(max_error * _MILLION))

    async def keep(self, group: Group) -> str:
        """Looked up, missed, answered, stored. What the service does not keep is no reason to leave items out: that
        nothing is replayed then is what they ask about.
        """
        try:
            found = await self._lookup(group, group.old)
        except MeshError as refused:
            return _refusal(refused)
        if found.HasField("miss") and found.miss.HasField("ticket"):
            await self._store(group, group.old, found.miss.ticket, group.old_answer)
        return ""

    async def ask(self, group: Group, item: Item) -> Fresh | Replay | NotJudged:
        """A lookup; what is missed is not stored, so that every item finds the same."""
        try:
            found = await self._lookup(group, item.new)
        except MeshError as refused:
            return NotJudged(_refusal(refused))
        if not found.HasField("hit"):
            return Fresh()
        return Replay(item.is_right(_content(found.hit)), sign_of(_TIER_NAMES[found.hit.tier]))

    async def teach(self, groups: Sequence[Group], learnt: Sequence[Item]) -> None:
        """Lives through ``learnt`` as a gateway would: what is missed is answered afresh and stored."""
        wanted = {item.id for item in learnt}
        for group in groups:
            await self.keep(group)
        for group in groups:
            for item in group.items:
                if item.id not in wanted:
                    continue
                try:
                    found = await self._lookup(group, item.new)
                except MeshError as refused:
                    _refusal(refused)
                    continue  # it is left out when it is asked, too
                if found.HasField("miss") and found.miss.HasField("ticket"):
                    await self._store(group, item.new, found.miss.ticket, item.fresh_answer)

    async def _lookup(self, group: Group, asked: Asked) -> cache_pb2.LookupResponse:
        controls = cache_pb2.CacheControls(
            mode=cache_pb2.CacheControls.MODE_DEFAULT,
            allow_sampled=asked.allow_sampled,
            up_to=TIERS[self._tier],
        )
        if asked.max_age_s is not None:
            controls.max_age_s = asked.max_age_s
        if self._tier == "semantic":
            controls.max_error_ppm = self._max_error_ppm
        request = cache_pb2.LookupRequest(
            principal=principal_to_proto(_principal(group, asked)),
            endpoint=_ENDPOINT,
            model=_model(asked),
            policy_epoch="bench",
            openai_body=asked.body,
            controls=controls,
            completion_id="gen_bench",
        )
        with mesh_errors():
            return await self._stub.Lookup(request, timeout=_TIMEOUT_S)

    async def _store(self, group: Group, asked: Asked, ticket: cache_pb2.Ticket, answer: str) -> None:
        request = cache_pb2.StoreRequest(
            principal=principal_to_proto(_principal(group, asked)),
            ticket=ticket,
            openai_body=asked.body,
            answer_body=_completion(_model(asked), answer),
            usage=usage_to_proto(_USAGE),
            price=price_to_proto(_PRICE),
            receipt_id="rcpt_bench",
            source_id="bench",
            upstream_model="bench",
        )
        with mesh_errors():
            await self._stub.Store(request, timeout=_TIMEOUT_S)


def _refusal(refused: MeshError) -> str:
    """That the cache takes something for no request. Any other error is the cache's own, and ends the run."""
    if refused.reason != ErrorReason.ERROR_REASON_INVALID_REQUEST:
        raise refused
    return f"the cache refuses their request: {refused}"


def _no_dial(address: str) -> NoReturn:
    raise AssertionError(f"the cache calls no other service, and dialled {address}")


def _principal(group: Group, asked: Asked) -> Principal:
    """Of the tenant, in a world that is the group's: another group's answers are in another organisation."""
    org, _, project = asked.tenant.partition("/")
    return Principal(f"org_{group.name}_{org}", f"prj_{project or 'default'}", "key_bench")


def _model(asked: Asked) -> str:
    return str(json.loads(asked.body)["model"])


def _completion(model: str, content: str) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return orjson.dumps(
        {
            "id": "chatcmpl-bench",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": model,
            "choices": [choice],
            "usage": {
                "prompt_tokens": _USAGE.input_tokens,
                "completion_tokens": _USAGE.output_tokens,
                "total_tokens": _USAGE.input_tokens + _USAGE.output_tokens,
            },
        }
    )


def _content(hit: cache_pb2.Hit) -> str:
    body: Any = fold([orjson.loads(chunk) for chunk in hit.chunks]) if hit.chunks else orjson.loads(hit.openai_body)
    return str(body["choices"][0]["message"]["content"])
