"""Looking up, storing and purging answers, over any ``EntryStore``."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, TypeVar

import structlog

from cache_svc.domain import answer as answers
from cache_svc.domain.eligibility import why_never_stored
from cache_svc.domain.entry import Entry, Poisoned, open_sealed, owner_of, seal
from cache_svc.domain.fill import ALONE, Claim, Lead, fill_name
from cache_svc.domain.replay import Controls, FreshAnswer, Hit, Miss, MissReason, Mode, Subject, Tier
from cache_svc.domain.request import (
    CacheRequest,
    Group,
    epoch_name,
    epoch_names_of,
    read_request,
    shared_epoch_name,
)
from cache_svc.domain.statistics import Held, Tallies, Tally
from cache_svc.service.fills import FillStore
from cache_svc.service.ports import Ending, EntryStore, Found, StoreUsage
from cache_svc.service.refusals import BadRequest, StoreFull, StoreUnavailable
from cache_svc.service.tiers import Answered, SemanticCounters, UpperTier, UpperTiers
from meshkit.clock import Clock
from meshkit.money import Provenance

_log = structlog.get_logger(__name__)
_THREAD_FROM_BYTES = 256 * 1024
"""From this size on, reading a request or an answer takes longer than the loop should stand still."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """``max_entry_bytes``: the longest entry, request and answer together. ``ttl_s``: how long one is kept."""

    max_entry_bytes: int
    ttl_s: int


@dataclass(frozen=True, slots=True)
class Leave:
    """What a lookup said of storing the fresh answer, besides its key. ``ttl_s``: the longest that it is kept; 0: as
    long as any. ``up_to``: the last tier that may find it. ``lesson``, ``epochs``: of the ``Miss``; without epochs,
    those that are in force.
    """

    ttl_s: int = 0
    up_to: Tier = Tier.EXACT
    lesson: bytes = b""
    epochs: tuple[int, ...] = ()


LEAVE = Leave()
"""For as long as any, in the exact tier."""


@dataclass(frozen=True, slots=True)
class Stored:
    """``refusal``: why the answer was not kept; empty: it was. ``ended``: the end of its flight was said with it."""

    refusal: str
    ended: bool


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
        fills: FillStore | None = None,
    ) -> None:
        """``fills``: where misses board flights; None: each calls for itself."""
        self._fills = fills
        self._store = store
        self._clock = clock
        self._limits = limits
        self._upper = UpperTiers(store, clock, tiers)
        self._tallies = Tallies()
        self.counters = counters or Counters()

    async def lookup(
        self, subject: Subject, controls: Controls, completion_id: str, claim: Claim | None = None
    ) -> Hit | Miss:
        """The answer to this request, or to one that a tier up to ``controls.up_to`` takes for the same, under
        ``completion_id``; or why there is none, and with ``claim``, who leads the flight of such requests.

        Raises:
            NotCanonical: the body has no canonical form.
        """
        request = await _request(subject)
        try:
            outcome = await self._find(request, controls, completion_id, claim if self._fills else None)
        except StoreUnavailable:
            outcome = Miss(MissReason.UNAVAILABLE)
        tally = self._tallies.of(_group(subject))
        if isinstance(outcome, Hit):
            self.counters.hits += 1
            self.counters.hits_by_tier[outcome.tier] += 1
            tally.hits += 1
        elif outcome.underway is None:  # whoever follows looks up again
            self.counters.misses += 1
            tally.misses += 1
        return outcome

    async def _find(
        self, request: CacheRequest, controls: Controls, completion_id: str, claim: Claim | None
    ) -> Hit | Miss:
        if controls.mode is Mode.OFF:
            return Miss(MissReason.BYPASSED)
        ineligible = why_never_stored(request.endpoint, request.body, allow_sampled=controls.allow_sampled)
        if ineligible:
            return Miss(MissReason.NOT_ELIGIBLE, detail=ineligible)
        if controls.mode is Mode.REFRESH:
            epochs = await self._store.epochs(request.epoch_names)
            return Miss(MissReason.BYPASSED, request.key(epochs), epochs=epochs)
        if controls.mode is Mode.ONLY or (controls.max_age_s is not None and controls.max_age_s <= 0):
            claim = None  # it takes no answer that is not there yet; or none but its own
        return await self._found(request, controls, completion_id, claim)

    async def _found(
        self, request: CacheRequest, controls: Controls, completion_id: str, claim: Claim | None
    ) -> Hit | Miss:
        ask = self._upper.ask(request, controls.up_to)
        # Where a later tier may have an answer, nobody is to lead before it was asked.
        at_once = claim if ask is None else None
        found = await self._store.find(request.address, request.epoch_names, ask.clues if ask else (), at_once)
        key = request.key(found.epochs)
        leave = b"" if controls.mode is Mode.ONLY else key
        entry = await self._verified(request, found)
        if entry is None:
            reason = MissReason.NOT_STORED
        else:
            age_ms = max(0, self._clock.now_ms() - entry.stored_at_ms)
            if controls.admits_age(age_ms):
                exact = Answered(Tier.EXACT, entry, key, age_ms, request.address)
                return self._render(request, exact, completion_id)
            reason = MissReason.STALE
        if ask is None:
            return await self._boarded(Miss(reason, leave, epochs=found.epochs), request, found, claim)
        search = await self._upper.search(request, ask, found.clues, controls)
        self.counters.poisoned += search.poisoned
        if search.answered is not None:
            return self._render(request, search.answered, completion_id)
        reason = MissReason.STALE if search.stale else reason
        miss = Miss(reason, leave, search.detail, search.lesson if leave else b"", epochs=found.epochs)
        return await self._boarded(miss, request, found, claim)

    async def _boarded(self, miss: Miss, request: CacheRequest, found: Found, claim: Claim | None) -> Miss:
        """The miss, with who leads the flight of such requests. Without flights, the request goes on by itself."""
        if claim is None or self._fills is None:
            return miss
        name = fill_name(request.address, found.epochs)
        leader, leads = found.leader, found.leads
        try:
            if not leader:
                leader = await self._fills.board(name, claim)
                leads = leader == claim.token
        except StoreUnavailable as error:
            _log.warning("fill_not_boarded", why=str(error))
            return miss
        if leader == ALONE:
            return miss
        lead, underway = (Lead(name, leader), None) if leads else (None, Lead(name, leader))
        return Miss(miss.reason, miss.key, miss.detail, miss.lesson, lead, underway, miss.epochs)

    async def _verified(self, request: CacheRequest, found: Found) -> Entry | None:
        if found.blob is None:
            return None
        try:
            entry = open_sealed(found.blob, request.canonical)
        except Poisoned as error:
            self.counters.poisoned += 1
            _log.error("cache_entry_poisoned", address=request.address.hex(), why=str(error))
            await self._store.delete(request.address, request.epoch_names)
            return None
        if entry.epochs != found.epochs:
            # Purged: found under no key any more, so its bytes may go.
            await self._store.delete(request.address, request.epoch_names)
            return None
        return entry

    def _render(self, request: CacheRequest, found: Answered, completion_id: str) -> Hit:
        answer, created_s = found.entry.answer, self._clock.now_ms() // 1000
        body, usage_chunk, chunks = b"", b"", list[bytes]()
        if request.stream:
            chunks, usage_chunk = answers.render_chunks(answer, completion_id=completion_id, created_s=created_s)
        else:
            body = answers.render_body(answer, completion_id=completion_id, created_s=created_s)
        return Hit(
            found.entry,
            found.key,
            found.age_ms,
            body=body,
            chunks=chunks,
            usage_chunk=usage_chunk if request.include_usage else b"",
            tier=found.tier,
            similarity=found.similarity,
            address=found.address,
        )

    async def store(self, subject: Subject, key: bytes, fresh: FreshAnswer, leave: Leave = LEAVE) -> str:
        """Keeps a fresh answer under the key that its lookup gave. Returns why it did not; empty: it did."""
        return (await self.store_and_end(subject, key, fresh, leave)).refusal

    async def store_and_end(
        self, subject: Subject, key: bytes, fresh: FreshAnswer, leave: Leave, ending: Ending | None = None
    ) -> Stored:
        """The same, and where the answer is kept, the end of its flight is said in the same trip, if the store can."""
        ended = False
        try:
            request, blob, answer = await self._sealed(subject, key, fresh, leave.epochs)
            ttl_s = min(leave.ttl_s or self._limits.ttl_s, self._limits.ttl_s)
            put = await self._store.put(
                request.address,
                blob,
                ttl_s=ttl_s,
                epoch_names=request.epoch_names,
                epochs=answer.epochs,
                ending=ending,
            )
            refusal, ended = "" if put.kept else _PURGED, put.ended
            if put.kept:
                await self._upper.keep(request, answer.answer, leave.up_to, ttl_s=ttl_s, lesson=leave.lesson)
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
            self._tallies.of(_group(subject)).stores += 1
        return Stored(refusal, ended)

    async def _sealed(
        self, subject: Subject, key: bytes, fresh: FreshAnswer, epochs: tuple[int, ...]
    ) -> tuple[CacheRequest, bytes, Entry]:
        """The entry, as it is and as bytes.

        Raises:
            NotStorable: it is none to keep.
        """
        request = await _request(subject)
        # Whether a sample may be replayed was decided when the ticket was given.
        ineligible = why_never_stored(request.endpoint, request.body, allow_sampled=True)
        if ineligible:
            raise answers.NotStorable(ineligible)
        if fresh.usage.provenance is not Provenance.PROVIDER:
            raise answers.NotStorable("the source did not say what the answer used")
        body = await _aside(len(fresh.body) + sum(map(len, fresh.chunks)), partial(_read_answer, fresh))
        answers.check_choices(body, request.body)
        epochs = epochs or await self._store.epochs(request.epoch_names)
        if request.key(epochs) != key:
            raise answers.NotStorable(_PURGED)
        entry = Entry(
            answer=answers.stored_form(body),
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
            raise answers.NotStorable(f"the entry has {len(blob)} bytes, the limit is {self._limits.max_entry_bytes}")
        return request, blob, entry

    async def purge(self, org_id: str, *, project_id: str = "", model: str = "") -> int:
        """Forgets the answers of an organisation, or of one project or model in it. Returns the epoch now in force.
        With a project's go those that the projects share, because it is not kept whose they were first.

        Raises:
            BadRequest: no organisation; or a project and a model.
            StoreUnavailable: nothing was purged.
        """
        if not org_id:
            raise BadRequest("a purge names an organisation")
        if project_id and model:
            raise BadRequest("a purge names a project or a model, not both")
        if project_id:
            await self._store.raise_epoch(shared_epoch_name(org_id))
        epoch = await self._store.raise_epoch(epoch_name(org_id, project_id=project_id, model=model))
        _log.info("cache_purged", org_id=org_id, project_id=project_id, model=model, epoch=epoch)
        return epoch

    async def purge_prefix(self, org_id: str, prefix: str) -> int:
        """Forgets those of an organisation's entries whose address begins with these hex digits. Returns how many.

        Raises:
            BadRequest: no organisation, or not 8 to 64 hex digits.
            StoreUnavailable: some may be there still.
        """
        if not org_id:
            raise BadRequest("a purge names an organisation")
        if not _KEY_PREFIX.fullmatch(prefix):
            raise BadRequest(
                "key_prefix is the beginning of a key, as Cache-Status shows it: 8 to 64 of 0-9 and a-f, not "
                f"{prefix[:70]!r}"
            )
        forgotten = 0
        for address, blob in await self._store.under(prefix.lower()):
            owner = owner_of(blob)
            if owner is not None and owner.org_id == org_id:
                await self._store.delete(address, epoch_names_of(owner))
                forgotten += 1
        _log.info("cache_entries_purged", org_id=org_id, key_prefix=prefix, forgotten=forgotten)
        return forgotten

    async def statistics(self, org_id: str) -> tuple[dict[Group, tuple[Tally, Held]], bool]:
        """Of one organisation, by group; and whether the store says what it holds of it: not where it is away."""
        try:
            held = await self._store.held(org_id)
        except StoreUnavailable:
            held = None
        tallies = self._tallies.of_organization(org_id)
        groups = sorted({*tallies, *(held or ())}, key=lambda group: (group.project_id, group.model))
        found = {group: (tallies.get(group, Tally()), (held or {}).get(group, Held())) for group in groups}
        return found, held is not None

    async def usage(self) -> StoreUsage:
        """What the store holds; zeros where it is away."""
        try:
            return await self._store.usage()
        except StoreUnavailable:
            return StoreUsage(0, 0)


async def _aside(size_bytes: int, work: Callable[[], T]) -> T:
    return work() if size_bytes < _THREAD_FROM_BYTES else await asyncio.to_thread(work)


def _read_answer(fresh: FreshAnswer) -> dict[str, Any]:
    return answers.read_chunks(fresh.chunks) if fresh.chunks else answers.read_body(fresh.body)


_PURGED = "the ticket is not for this request, or what it was for has been purged since"
_KEY_PREFIX = re.compile(r"[0-9a-fA-F]{8,64}")


def _group(subject: Subject) -> Group:
    project_id = "" if subject.share_in_org else subject.principal.project_id
    return Group(subject.principal.org_id, project_id, subject.model)


_REMEMBERED_BYTES = 8 * 1024
"""The longest request of which the reading is remembered: of 512 of them, so 25 MB at most."""


def _read(subject: Subject) -> CacheRequest:
    return read_request(
        principal=subject.principal,
        endpoint=subject.endpoint,
        model=subject.model,
        policy_epoch=subject.policy_epoch,
        raw=subject.body,
        share_in_org=subject.share_in_org,
    )


_read_again = lru_cache(maxsize=512)(_read)


async def _request(subject: Subject) -> CacheRequest:
    """The request of ``subject``. A fresh one is read for its lookup and for its store, a hot one all the time."""
    if len(subject.body) <= _REMEMBERED_BYTES:
        return _read_again(subject)
    return await _aside(len(subject.body), partial(_read, subject))
