"""Lives through an organisation's recorded requests with each tier of the cache, and says what it would have saved.

The tier is the real cache service, empty at first, in this process; its clock shows the time of each record. A request
is looked up, and where nothing is replayed its recorded answer is stored, as if a source had just given it. A replay of
a request whose recorded answer was fresh is judged: it differs where it does not say what that answer said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from meshkit.codec import price_to_proto, usage_to_proto
from meshkit.errors import mesh_errors
from meshkit.money import BillingTier, PriceSnapshot, format_usd
from tallygate.cache.v1 import cache_pb2, cache_pb2_grpc
from tallygate.common.v1 import principal_pb2
from tallygate_deploy.cache_safety.log_reader import Recorded
from tallygate_deploy.cache_safety.metrics import Interval, clopper_pearson
from tallygate_deploy.cache_safety.tiers import TIERS, cache_service, settings_of

__all__ = ["TIERS", "Difference", "LogClock", "TierReport", "is_sampled", "live_through", "said"]

_TIMEOUT_S = 30.0
_MILLION = 1_000_000
_ORG, _KEY = "org_log", "key_log"
_MODES = {
    "default": cache_pb2.CacheControls.MODE_DEFAULT,
    "off": cache_pb2.CacheControls.MODE_DEFAULT,  # by the key's policy: what a cache would save is the question
    "refresh": cache_pb2.CacheControls.MODE_REFRESH,
    "only": cache_pb2.CacheControls.MODE_DEFAULT,  # it was answered, else it would not be recorded
}
_NO_PRICE = price_to_proto(PriceSnapshot("log", BillingTier.FREE, ()))
"""The log has what each call cost; the cache only carries a price."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A replay that does not say what the recorded answer said. ``asked`` and ``replayed`` name the two requests, by
    receipt where they have one. ``tier``: what found it. ``sampled``: the request asks for another answer each time.
    """

    asked: str
    replayed: str
    tier: str
    sampled: bool


@dataclass(slots=True)
class TierReport:
    """What became of the requests under one tier. ``judged`` replays had a fresh answer to be compared with; of these
    ``sampled`` asked for another answer each time. ``not_kept``: answers that the cache did not take, by why.

    ``hits_fresh_nano_usd``: what the replayed requests cost, or had cost, fresh; ``hits_replay_nano_usd``: as replays.
    """

    tier: str
    requests: int = 0
    fresh_nano_usd: int = 0
    hits: int = 0
    hits_fresh_nano_usd: int = 0
    hits_replay_nano_usd: int = 0
    judged: int = 0
    sampled: int = 0
    differences: list[Difference] = field(default_factory=list)
    not_kept: dict[str, int] = field(default_factory=dict)

    @property
    def saved_nano_usd(self) -> int:
        """By the replays."""
        return self.hits_fresh_nano_usd - self.hits_replay_nano_usd

    @property
    def disagreement(self) -> Interval:
        """The share of replays that differ. Sampled requests are left out: there a difference is what was asked for."""
        differ = sum(not one.sampled for one in self.differences)
        return clopper_pearson(differ, self.judged - self.sampled)

    def line(self) -> dict[str, object]:
        """What a program reads of it."""
        share = self.disagreement
        return {
            "tier": self.tier,
            "requests": self.requests,
            "hits": self.hits,
            "hits_fresh_usd": format_usd(self.hits_fresh_nano_usd),
            "hits_replay_usd": format_usd(self.hits_replay_nano_usd),
            "saved_usd": format_usd(self.saved_nano_usd),
            "judged": share.total,
            "differ": share.count,
            "differ_upper95": round(share.high, 6),
            "sampled_judged": self.sampled,
            "sampled_differ": len(self.differences) - share.count,
        }


class LogClock:
    """The time of the log; it never goes back."""

    def __init__(self) -> None:
        self._now_ms = 0

    def go_to(self, now_ms: int) -> None:
        """To a time, unless it is past."""
        self._now_ms = max(self._now_ms, now_ms)

    def now_ms(self) -> int:
        """Unix time in milliseconds."""
        return self._now_ms

    def monotonic_s(self) -> float:
        """The same in seconds."""
        return self._now_ms / 1_000


async def live_through(log: Callable[[], Iterable[Recorded]], tier: str, *, max_error: float) -> TierReport:
    """What the cache would have done, asked up to ``tier``. ``log``: gives the records, from the first on each time.
    ``max_error``: of the semantic tier, the share of replays that may be wrong.

    Raises:
        LogError: of the log.
        MeshError: a record is not one that the cache takes for a request.
        SemanticMissing: the packages of that tier are not installed.
    """
    clock = LogClock()
    async with cache_service(settings_of(tier), clock) as channel:
        life = _Life(cache_pb2_grpc.CacheServiceStub(channel), TierReport(tier), max_error)
        for recorded in log():
            clock.go_to(recorded.asked_at_ms)
            await life.ask(recorded)
        return life.report


class _Life:
    def __init__(self, stub: cache_pb2_grpc.CacheServiceAsyncStub, report: TierReport, max_error: float) -> None:
        self._stub = stub
        self.report = report
        self._max_error_ppm = max(1, round(max_error * _MILLION))
        self._kept: dict[str, tuple[str, int]] = {}
        """Of each answer that was kept, by the receipt that it was kept with: its name, and what a replay costs."""

    async def ask(self, recorded: Recorded) -> None:
        report = self.report
        report.requests += 1
        report.fresh_nano_usd += recorded.fresh_nano_usd
        with mesh_errors():
            found = await self._stub.Lookup(self._lookup(recorded), timeout=_TIMEOUT_S)
        if found.HasField("hit"):
            self._enter(recorded, found.hit)
        elif found.miss.HasField("ticket"):
            await self._keep(recorded, found.miss.ticket)
        else:
            _count(report.not_kept, found.miss.detail or "the cache gave no leave to store it")

    def _enter(self, recorded: Recorded, hit: cache_pb2.Hit) -> None:
        report = self.report
        name, replay_nano_usd = self._kept[hit.origin_receipt_id]
        report.hits += 1
        report.hits_fresh_nano_usd += recorded.fresh_nano_usd
        report.hits_replay_nano_usd += replay_nano_usd
        if recorded.served_mode != "fresh":
            return  # what was recorded is a replay itself: it agrees with its origin, which says nothing
        sampled = is_sampled(recorded.body)
        report.judged += 1
        report.sampled += sampled
        if said(hit.openai_body) != said(recorded.answer):
            tier = cache_pb2.ReplayTier.Name(hit.tier).removeprefix("REPLAY_TIER_").lower()
            report.differences.append(Difference(recorded.name, name, tier, sampled))

    async def _keep(self, recorded: Recorded, ticket: cache_pb2.Ticket) -> None:
        receipt_id = f"line {recorded.line}"
        request = cache_pb2.StoreRequest(
            principal=_principal(recorded),
            ticket=ticket,
            openai_body=recorded.body,
            answer_body=recorded.answer,
            usage=usage_to_proto(recorded.usage),
            price=_NO_PRICE,
            receipt_id=receipt_id,
            source_id=recorded.source_id,
            upstream_model=recorded.model,
        )
        with mesh_errors():
            stored = await self._stub.Store(request, timeout=_TIMEOUT_S)
        if stored.stored:
            self._kept[receipt_id] = (recorded.name, recorded.replay_nano_usd)
        else:
            _count(self.report.not_kept, stored.reason)

    def _lookup(self, recorded: Recorded) -> cache_pb2.LookupRequest:
        tier = self.report.tier
        return cache_pb2.LookupRequest(
            principal=_principal(recorded),
            endpoint=recorded.endpoint,
            model=recorded.model,
            policy_epoch=recorded.policy_epoch,
            openai_body=recorded.body,
            controls=cache_pb2.CacheControls(
                mode=_MODES[recorded.cache_mode],
                max_age_s=recorded.max_age_s,
                allow_sampled=recorded.allow_sampled,
                up_to=TIERS[tier],
                max_error_ppm=self._max_error_ppm if tier == "semantic" else None,
                ttl_s=recorded.ttl_s,
                share_in_org=recorded.share_in_org,
            ),
            completion_id="gen_log",
        )


def said(answer: bytes) -> list[dict[str, Any]]:
    """What an answer says to its reader, choice by choice: its text, its refusal, what it calls with which arguments,
    and how it ended. Left out is what differs between two calls without being said: ids, reasoning, probabilities.
    """
    body = orjson.loads(answer)
    return [_said(choice) for choice in body.get("choices") or () if isinstance(choice, dict)]


def _said(choice: dict[str, Any]) -> dict[str, Any]:
    message = choice.get("message") or {}
    calls = [call.get("function") or call.get("custom") for call in message.get("tool_calls") or ()]
    return {
        "content": message.get("content") or "",
        "refusal": message.get("refusal") or "",
        "calls": [_called(call) for call in (*calls, message.get("function_call")) if call],
        "finish": choice.get("finish_reason"),
    }


def _called(call: dict[str, Any]) -> dict[str, Any]:
    """With the arguments as JSON, where they are: white space in them is not said."""
    arguments = call.get("arguments")
    try:
        return {**call, "arguments": orjson.loads(arguments)} if isinstance(arguments, str) else call
    except orjson.JSONDecodeError:
        return call


def is_sampled(body: bytes) -> bool:
    """The request leaves its answer to chance: `temperature` is not 0."""
    return bool(orjson.loads(body).get("temperature", 1) != 0)


def _principal(recorded: Recorded) -> principal_pb2.Principal:
    return principal_pb2.Principal(org_id=_ORG, project_id=recorded.project_id, key_id=_KEY)


def _count(counts: dict[str, int], why: str) -> None:
    counts[why] = counts.get(why, 0) + 1
