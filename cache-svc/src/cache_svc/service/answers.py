"""Looking up, storing and purging answers, over any ``EntryStore``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import orjson
import structlog

from cache_svc.domain import answer as answers
from cache_svc.domain.eligibility import why_never_stored
from cache_svc.domain.entry import Entry, Poisoned, open_sealed, seal
from cache_svc.domain.fill import ALONE, Claim, Lead, fill_name
from cache_svc.domain.replay import Controls, FreshAnswer, Hit, Miss, MissReason, Mode, Subject, Tier
from cache_svc.domain.request import CacheRequest, epoch_name, read_request
from cache_svc.service.fills import FillStore
from cache_svc.service.refusals import BadRequest, StoreFull, StoreUnavailable
from meshkit.clock import Clock
from meshkit.money import Provenance

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """What a store holds: the epochs in force, in the order asked for, and the bytes at the address. ``leader``: of the
    flight, where the claim was made with it; see ``FillStore.board``.
    """

    epochs: tuple[int, ...]
    blob: bytes | None
    leader: str = ""


@dataclass(frozen=True, slots=True)
class StoreUsage:
    """Bytes held (0 where the backend does not say) and entries dropped to stay within a bound."""

    held_bytes: int
    evictions: int


class EntryStore(Protocol):
    """Keeps opaque bytes by address, and purge epochs by name. Every method may raise ``StoreUnavailable``.

    An epoch that was never seen, or was evicted or expired, comes into being with a value that it never had before, and
    is raised to such a value too. So a backend that forgets undoes no purge.

    One that remembers an earlier state does: a restored backup, or a replica that took over before a purge had reached
    it, has the epochs of that state, and finds again the entries that were stored under them, until their TTL ends or
    the purge is made anew. It holds then, for what was stored or begun before it, whatever the backend went back to.
    """

    async def find(self, address: bytes, epoch_names: Sequence[str], claim: Claim | None = None) -> Found:
        """The bytes at ``address`` and the epochs, in one round trip. Where nothing lies there, ``claim`` may be made
        in the same; a backend that makes it says who leads.
        """

    async def epochs(self, epoch_names: Sequence[str]) -> tuple[int, ...]:
        """The epochs in force."""

    async def put(self, address: bytes, blob: bytes, *, ttl_s: int, epoch_names: Sequence[str]) -> None:
        """Keeps ``blob`` for ``ttl_s`` seconds, and its epochs longer. ``StoreFull``: it was not kept."""

    async def delete(self, address: bytes) -> None:
        """Forgets what is at ``address``, if anything."""

    async def raise_epoch(self, epoch_name: str) -> int:
        """Sets the epoch to a value that it never had before, above the last one, and returns it."""

    async def usage(self) -> StoreUsage:
        """What is held."""


NewEpoch = Callable[[], int]
"""Gives a positive int64 that no process was given before, and that grows with time."""


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


class CacheService:
    """The exact tier."""

    def __init__(self, store: EntryStore, clock: Clock, limits: Limits, fills: FillStore | None = None) -> None:
        """``fills``: where misses board flights; None: each calls for itself."""
        self._fills = fills
        self._store = store
        self._clock = clock
        self._limits = limits
        self.counters = Counters()

    async def lookup(
        self, subject: Subject, controls: Controls, completion_id: str, claim: Claim | None = None
    ) -> Hit | Miss:
        """The answer to exactly this request, under ``completion_id``; or why there is none, and with ``claim``, who
        leads the flight of such requests.

        Raises:
            NotCanonical: the body has no canonical form.
        """
        request = _read(subject)
        try:
            outcome = await self._find(request, controls, completion_id, claim if self._fills else None)
        except StoreUnavailable:
            outcome = Miss(MissReason.UNAVAILABLE)
        if isinstance(outcome, Hit):
            self.counters.hits += 1
        elif outcome.underway is None:  # whoever follows looks up again
            self.counters.misses += 1
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
            return Miss(MissReason.BYPASSED, request.key(await self._store.epochs(request.epoch_names)))
        if controls.mode is Mode.ONLY or (controls.max_age_s is not None and controls.max_age_s <= 0):
            claim = None  # it takes no answer that is not there yet; or none but its own
        # Where a later tier may have an answer, nobody is to lead before it was asked.
        at_once = claim if controls.up_to is Tier.EXACT else None
        found = await self._store.find(request.address, request.epoch_names, at_once)
        key = request.key(found.epochs)
        leave = b"" if controls.mode is Mode.ONLY else key
        entry = await self._verified(request, found)
        if entry is None:
            return await self._boarded(Miss(MissReason.NOT_STORED, leave), request, found, claim)
        age_ms = max(0, self._clock.now_ms() - entry.stored_at_ms)
        if controls.max_age_s is not None and (controls.max_age_s <= 0 or age_ms > controls.max_age_s * 1000):
            return await self._boarded(Miss(MissReason.STALE, leave), request, found, claim)
        return self._render(request, entry, key, age_ms, completion_id)

    async def _boarded(self, miss: Miss, request: CacheRequest, found: Found, claim: Claim | None) -> Miss:
        """The miss, with who leads the flight of such requests. Without flights, the request goes on by itself."""
        if claim is None or self._fills is None:
            return miss
        name = fill_name(request.address, found.epochs)
        try:
            leader = found.leader or await self._fills.board(name, claim)
        except StoreUnavailable as error:
            _log.warning("fill_not_boarded", why=str(error))
            return miss
        if leader == ALONE:
            return miss
        standing = Lead(name, leader)
        return replace(miss, lead=standing) if leader == claim.token else replace(miss, underway=standing)

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

    def _render(self, request: CacheRequest, entry: Entry, key: bytes, age_ms: int, completion_id: str) -> Hit:
        created_s = self._clock.now_ms() // 1000
        if not request.stream:
            body = answers.render_body(entry.answer, completion_id=completion_id, created_s=created_s)
            return Hit(entry, key, age_ms, body=body)
        chunks, usage_chunk = answers.render_chunks(entry.answer, completion_id=completion_id, created_s=created_s)
        return Hit(entry, key, age_ms, chunks=chunks, usage_chunk=usage_chunk if request.include_usage else b"")

    async def store(self, subject: Subject, key: bytes, fresh: FreshAnswer) -> str:
        """Keeps a fresh answer under the key that its lookup gave. Returns why it did not; empty: it did."""
        try:
            refusal = await self._keep(subject, key, fresh)
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

    async def _keep(self, subject: Subject, key: bytes, fresh: FreshAnswer) -> str:
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
