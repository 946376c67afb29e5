"""Looking up, storing and purging answers, over any ``EntryStore``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import orjson
import structlog

from cache_svc.domain import answer as answers
from cache_svc.domain.eligibility import why_never_stored
from cache_svc.domain.entry import Entry, Poisoned, open_sealed, seal
from cache_svc.domain.replay import Controls, FreshAnswer, Hit, Miss, MissReason, Mode, Subject, Tier
from cache_svc.domain.request import CacheRequest, epoch_name, read_request
from cache_svc.service.ports import EntryStore, Found, StoreUsage
from cache_svc.service.refusals import BadRequest, StoreFull, StoreUnavailable
from cache_svc.service.tiers import Answered, SemanticCounters, UpperTier, UpperTiers
from meshkit.clock import Clock
from meshkit.money import Provenance

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """``max_entry_bytes``: the longest entry, request and answer together. ``ttl_s``: how long one is kept."""

    max_entry_bytes: int
    ttl_s: int


@dataclass(slots=True)
class Counters:
    """Since the process began."""

    hits: int = 0
    misses: int = 0
    stores: int = 0
    store_refusals: int = 0
    poisoned: int = 0
    hits_by_tier: Counter[Tier] = field(default_factory=Counter)
    semantic: SemanticCounters = field(default_factory=SemanticCounters)


class CacheService:
    """The exact tier, and above it the ones that point at its entries."""

    def __init__(
        self,
        store: EntryStore,
        clock: Clock,
        limits: Limits,
        tiers: Sequence[UpperTier] = (),
        counters: Counters | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits
        self._upper = UpperTiers(store, clock, tiers)
        self.counters = counters or Counters()

    async def lookup(self, subject: Subject, controls: Controls, completion_id: str) -> Hit | Miss:
        """The answer to this request, or to one that a tier up to ``controls.up_to`` takes for the same, under
        ``completion_id``; or why there is none.

        Raises:
            NotCanonical: the body has no canonical form.
        """
        request = _read(subject)
        try:
            outcome = await self._find(request, controls, completion_id)
        except StoreUnavailable:
            outcome = Miss(MissReason.UNAVAILABLE)
        if isinstance(outcome, Hit):
            self.counters.hits += 1
            self.counters.hits_by_tier[outcome.tier] += 1
        else:
            self.counters.misses += 1
        return outcome

    async def _find(self, request: CacheRequest, controls: Controls, completion_id: str) -> Hit | Miss:
        if controls.mode is Mode.OFF:
            return Miss(MissReason.BYPASSED)
        ineligible = why_never_stored(request.endpoint, request.body, allow_sampled=controls.allow_sampled)
        if ineligible:
            return Miss(MissReason.NOT_ELIGIBLE, detail=ineligible)
        if controls.mode is Mode.REFRESH:
            return Miss(MissReason.BYPASSED, request.key(await self._store.epochs(request.epoch_names)))
        return await self._found(request, controls, completion_id)

    async def _found(self, request: CacheRequest, controls: Controls, completion_id: str) -> Hit | Miss:
        ask = self._upper.ask(request, controls.up_to)
        found = await self._store.find(request.address, request.epoch_names, ask.clues if ask else ())
        key = request.key(found.epochs)
        leave = b"" if controls.mode is Mode.ONLY else key
        entry = await self._verified(request, found)
        if entry is None:
            reason = MissReason.NOT_STORED
        else:
            age_ms = max(0, self._clock.now_ms() - entry.stored_at_ms)
            if controls.takes(age_ms):
                return self._render(request, Answered(Tier.EXACT, entry, key, age_ms), completion_id)
            reason = MissReason.STALE
        if ask is None:
            return Miss(reason, leave)
        search = await self._upper.search(request, ask, found.clues, controls)
        self.counters.poisoned += search.poisoned
        if search.answered is not None:
            return self._render(request, search.answered, completion_id)
        reason = MissReason.STALE if search.stale else reason
        return Miss(reason, leave, search.detail, search.lesson if leave else b"")

    async def _verified(self, request: CacheRequest, found: Found) -> Entry | None:
        if found.blob is None:
            return None
        try:
            entry = open_sealed(found.blob, request.canonical)
        except Poisoned as error:
            self.counters.poisoned += 1
            _log.error("cache_entry_poisoned", address=request.address.hex(), why=str(error))
            await self._store.delete(request.address)
            return None
        if entry.epochs != found.epochs:
            await self._store.delete(request.address)  # purged: found under no key any more, so its bytes may go
            return None
        return entry

    def _render(self, request: CacheRequest, found: Answered, completion_id: str) -> Hit:
        entry, created_s = found.entry, self._clock.now_ms() // 1000
        if not request.stream:
            body = answers.render_body(entry.answer, completion_id=completion_id, created_s=created_s)
            return Hit(entry, found.key, found.age_ms, body=body, tier=found.tier, similarity=found.similarity)
        chunks, usage_chunk = answers.render_chunks(entry.answer, completion_id=completion_id, created_s=created_s)
        if not request.include_usage:
            usage_chunk = b""
        return Hit(
            entry,
            found.key,
            found.age_ms,
            chunks=chunks,
            usage_chunk=usage_chunk,
            tier=found.tier,
            similarity=found.similarity,
        )

    async def store(
        self, subject: Subject, key: bytes, fresh: FreshAnswer, up_to: Tier = Tier.EXACT, lesson: bytes = b""
    ) -> str:
        """Keeps a fresh answer under the key that its lookup gave. Returns why it did not; empty: it did.

        ``up_to``: the last tier that may find it, as its lookup said. ``lesson``: of the ``Miss``.
        """
        try:
            refusal = await self._keep(subject, key, fresh, up_to, lesson)
        except answers.NotStorable as error:
            refusal = str(error)
        except StoreUnavailable:
            refusal = "the cache's backend is away"
        except StoreFull:
            refusal = "the cache's backend is full"
        if refusal:
            self.counters.store_refusals += 1
        else:
            self.counters.stores += 1
        return refusal

    async def _keep(self, subject: Subject, key: bytes, fresh: FreshAnswer, up_to: Tier, lesson: bytes) -> str:
        request = _read(subject)
        # Whether a sample may be replayed was decided when the ticket was given.
        ineligible = why_never_stored(request.endpoint, request.body, allow_sampled=True)
        if ineligible:
            return ineligible
        if fresh.usage.provenance is not Provenance.PROVIDER:
            return "the source did not say what the answer used"
        body = answers.read_chunks(fresh.chunks) if fresh.chunks else answers.read_body(fresh.body)
        epochs = await self._store.epochs(request.epoch_names)
        if request.key(epochs) != key:
            return "the ticket is not for this request, or what it was for has been purged since"
        entry = Entry(
            answer=orjson.dumps(body),
            epochs=epochs,
            stored_at_ms=self._clock.now_ms(),
            usage=fresh.usage,
            price=fresh.price,
            receipt_id=fresh.receipt_id,
            source_id=fresh.source_id,
            upstream_model=fresh.upstream_model,
        )
        blob = seal(entry, request.canonical)
        if len(blob) > self._limits.max_entry_bytes:
            return f"the entry has {len(blob)} bytes, the limit is {self._limits.max_entry_bytes}"
        await self._store.put(request.address, blob, ttl_s=self._limits.ttl_s, epoch_names=request.epoch_names)
        await self._upper.keep(request, entry.answer, up_to, ttl_s=self._limits.ttl_s, lesson=lesson)
        return ""

    async def purge(self, org_id: str, *, project_id: str = "", model: str = "") -> int:
        """Forgets the answers of an organisation, or of one project or model in it. Returns the epoch now in force.

        Raises:
            BadRequest: no organisation; or a project and a model.
            StoreUnavailable: nothing was purged.
        """
        if not org_id:
            raise BadRequest("a purge names an organisation")
        if project_id and model:
            raise BadRequest("a purge names a project or a model, not both")
        epoch = await self._store.raise_epoch(epoch_name(org_id, project_id=project_id, model=model))
        _log.info("cache_purged", org_id=org_id, project_id=project_id, model=model, epoch=epoch)
        return epoch

    async def usage(self) -> StoreUsage:
        """What the store holds; zeros where it is away."""
        try:
            return await self._store.usage()
        except StoreUnavailable:
            return StoreUsage(0, 0)


def _read(subject: Subject) -> CacheRequest:
    return read_request(
        principal=subject.principal,
        endpoint=subject.endpoint,
        model=subject.model,
        policy_epoch=subject.policy_epoch,
        raw=subject.body,
    )
