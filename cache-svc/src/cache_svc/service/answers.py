"""Looking up, storing and purging answers, over any ``EntryStore``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import orjson
import structlog

from cache_svc.domain import answer as answers
from cache_svc.domain.eligibility import why_never_stored
from cache_svc.domain.entry import Entry, Poisoned, open_sealed, organization_of, seal
from cache_svc.domain.replay import Controls, FreshAnswer, Hit, Miss, MissReason, Mode, Subject
from cache_svc.domain.request import CacheRequest, Group, epoch_name, read_request, shared_epoch_name
from cache_svc.domain.statistics import Held, Tallies, Tally
from cache_svc.service.refusals import BadRequest, StoreFull, StoreUnavailable
from meshkit.clock import Clock
from meshkit.money import Provenance

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """What a store holds: the epochs in force, in the order asked for, and the bytes at the address."""

    epochs: tuple[int, ...]
    blob: bytes | None


@dataclass(frozen=True, slots=True)
class StoreUsage:
    """Bytes held (0 where the backend does not say) and entries dropped to stay within a bound."""

    held_bytes: int
    evictions: int
    entries: int = 0


class EntryStore(Protocol):
    """Keeps opaque bytes by address, and purge epochs by name. Every method may raise ``StoreUnavailable``.

    An epoch that was never seen, or was evicted or expired, comes into being with a value that it never had before, and
    is raised to such a value too. So a backend that forgets undoes no purge.

    One that remembers an earlier state does: a restored backup, or a replica that took over before a purge had reached
    it, has the epochs of that state, and finds again the entries that were stored under them, until their TTL ends or
    the purge is made anew. It holds then, for what was stored or begun before it, whatever the backend went back to.
    """

    async def find(self, address: bytes, epoch_names: Sequence[str]) -> Found:
        """The bytes at ``address`` and the epochs, in one round trip."""

    async def epochs(self, epoch_names: Sequence[str]) -> tuple[int, ...]:
        """The epochs in force."""

    async def put(self, address: bytes, blob: bytes, *, ttl_s: int, epoch_names: Sequence[str]) -> None:
        """Keeps ``blob`` for ``ttl_s`` seconds, and its epochs longer. ``StoreFull``: it was not kept."""

    async def delete(self, address: bytes) -> None:
        """Forgets what is at ``address``, if anything."""

    async def raise_epoch(self, epoch_name: str) -> int:
        """Sets the epoch to a value that it never had before, above the last one, and returns it."""

    async def under(self, prefix: str) -> list[tuple[bytes, bytes]]:
        """Addresses that begin with these hex digits, whosever they are, with their bytes. Looks at all addresses."""

    async def usage(self) -> StoreUsage:
        """What is held."""

    async def held(self, org_id: str) -> Mapping[Group, Held] | None:
        """What is held of an organisation, by the group that its ``epoch_names`` say; None: the backend does not count
        that.
        """


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

    def __init__(self, store: EntryStore, clock: Clock, limits: Limits) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits
        self._tallies = Tallies()
        self.counters = Counters()

    async def lookup(self, subject: Subject, controls: Controls, completion_id: str) -> Hit | Miss:
        """The answer to exactly this request, under ``completion_id``; or why there is none.

        Raises:
            NotCanonical: the body has no canonical form.
        """
        request = _read(subject)
        try:
            outcome = await self._find(request, controls, completion_id)
        except StoreUnavailable:
            outcome = Miss(MissReason.UNAVAILABLE)
        tally = self._tallies.of(_group(subject))
        if isinstance(outcome, Hit):
            self.counters.hits += 1
            tally.hits += 1
        else:
            self.counters.misses += 1
            tally.misses += 1
        return outcome

    async def _find(self, request: CacheRequest, controls: Controls, completion_id: str) -> Hit | Miss:
        if controls.mode is Mode.OFF:
            return Miss(MissReason.BYPASSED)
        ineligible = why_never_stored(request.endpoint, request.body, allow_sampled=controls.allow_sampled)
        if ineligible:
            return Miss(MissReason.NOT_ELIGIBLE, detail=ineligible)
        if controls.mode is Mode.REFRESH:
            return Miss(MissReason.BYPASSED, request.key(await self._store.epochs(request.epoch_names)))
        found = await self._store.find(request.address, request.epoch_names)
        key = request.key(found.epochs)
        leave = b"" if controls.mode is Mode.ONLY else key
        entry = await self._verified(request, found)
        if entry is None:
            return Miss(MissReason.NOT_STORED, leave)
        age_ms = max(0, self._clock.now_ms() - entry.stored_at_ms)
        if not controls.admits_age(age_ms):
            return Miss(MissReason.STALE, leave)
        return self._render(request, entry, key, age_ms, completion_id)

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
            return Hit(entry, key, age_ms, body=body, address=request.address)
        chunks, usage_chunk = answers.render_chunks(entry.answer, completion_id=completion_id, created_s=created_s)
        usage_chunk = usage_chunk if request.include_usage else b""
        return Hit(entry, key, age_ms, chunks=chunks, usage_chunk=usage_chunk, address=request.address)

    async def store(self, subject: Subject, key: bytes, fresh: FreshAnswer, *, ttl_s: int = 0) -> str:
        """Keeps a fresh answer under the key that its lookup gave, for ``ttl_s`` at most; 0: as long as any. Returns
        why it did not; empty: it did.
        """
        try:
            refusal = await self._keep(subject, key, fresh, ttl_s or self._limits.ttl_s)
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
        return refusal

    async def _keep(self, subject: Subject, key: bytes, fresh: FreshAnswer, ttl_s: int) -> str:
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
        ttl_s = min(ttl_s, self._limits.ttl_s)
        await self._store.put(request.address, blob, ttl_s=ttl_s, epoch_names=request.epoch_names)
        return ""

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
            if organization_of(blob) == org_id:
                await self._store.delete(address)
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


_KEY_PREFIX = re.compile(r"[0-9a-fA-F]{8,64}")


def _group(subject: Subject) -> Group:
    project_id = "" if subject.share_in_org else subject.principal.project_id
    return Group(subject.principal.org_id, project_id, subject.model)


def _read(subject: Subject) -> CacheRequest:
    return read_request(
        principal=subject.principal,
        endpoint=subject.endpoint,
        model=subject.model,
        policy_epoch=subject.policy_epoch,
        raw=subject.body,
        share_in_org=subject.share_in_org,
    )
