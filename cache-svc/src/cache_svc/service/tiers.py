"""The tiers above the exact one: they point at entries of the exact tier that may answer another request too.

An upper tier keeps no answers. It proposes the address of an entry; the entry is opened as the exact tier opens it, and
its request is compared byte for byte with the one asked, but for the text of the last user message. Only then does the
tier judge the two texts. So whatever an index holds, what differs anywhere else is never replayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import structlog

from cache_svc.domain.entry import Entry, Poisoned, open_sealed, request_of
from cache_svc.domain.question import Question, read_question
from cache_svc.domain.replay import Controls, Tier
from cache_svc.domain.request import CacheRequest
from cache_svc.service.ports import EntryStore
from cache_svc.service.refusals import StoreFull, StoreUnavailable
from meshkit.clock import Clock

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Candidate:
    """The ``address`` of an entry that may answer. ``context``: the tier's own, which it gets back with the text."""

    address: bytes
    context: bytes = b""


class Ruling(Enum):
    """What a tier makes of a candidate. POISONED: its own record was wrong, and it is told to forget it."""

    REPLAY = 1
    APART = 2
    POISONED = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """``lesson``: what the tier wants back together with the fresh answer that is made now; empty: nothing.
    ``similarity``: of the two texts, 0 to 1, where the tier measures any. ``detail``: in words, why it is no replay,
    where that is worth telling the client.
    """

    ruling: Ruling
    lesson: bytes = b""
    similarity: float = 0.0
    detail: str = ""


@dataclass(slots=True)
class SemanticCounters:
    """Of the semantic tier, since the process began. ``explored``: lookups that went to the source so that its answer
    is compared with a kept one. ``agreed`` and ``disagreed``: what came of it. ``guarded``: candidates that the guards
    kept apart.
    """

    explored: int = 0
    agreed: int = 0
    disagreed: int = 0
    guarded: int = 0


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer that the exact tier has just kept at ``address`` for ``ttl_s`` seconds. ``answer``: its body, JSON.
    ``lesson``: what the tier's verdict at the lookup asked for, if this is the answer that was made then.
    """

    question: Question
    address: bytes
    answer: bytes
    ttl_s: int
    lesson: bytes = b""


@dataclass(frozen=True, slots=True)
class Clue:
    """What lay at the address that a tier wanted read along with the exact entry. ``blob``: None where nothing did."""

    address: bytes
    blob: bytes | None


class UpperTier(Protocol):
    """Finds entries by what a question says. Every async method may raise ``StoreUnavailable``."""

    @property
    def tier(self) -> Tier:
        """Which one it is; tiers are asked in their order."""

    def reads(self, request: CacheRequest) -> bool:
        """Whether it answers requests of this kind at all."""

    def clue(self, question: Question) -> bytes:
        """The address of what is to be read in the same round trip as the exact entry; empty: nothing."""

    async def find(self, question: Question, clue: Clue | None, controls: Controls) -> Sequence[Candidate]:
        """Candidates for a question that no tier before answered, the best first; few, because each is read. ``clue``:
        None if the tier wanted nothing read.
        """

    async def judge(
        self, question: Question, kept_text: str, answer: bytes, candidate: Candidate, controls: Controls
    ) -> Verdict:
        """Whether ``answer``, a body that was kept for ``kept_text``, answers the question; everything else of the two
        requests is the same.
        """

    async def keep(self, kept: KeptAnswer) -> None:
        """Told of each answer kept for a request that lets this tier answer. May raise ``StoreFull``."""

    async def forget(self, question: Question, candidate: Candidate) -> None:
        """Told that a candidate led nowhere: its entry is gone, purged or poisoned, or the record was wrong."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A question, the tiers that may answer it, and the address that each wants read; empty: none."""

    question: Question
    tiers: tuple[UpperTier, ...]
    wanted: tuple[bytes, ...]

    @property
    def clues(self) -> tuple[bytes, ...]:
        """The addresses to be read with the exact entry."""
        return tuple(address for address in self.wanted if address)


@dataclass(frozen=True, slots=True)
class Answered:
    """A verified entry, of this request or another. ``key``: the one that it was stored under, ``address``: where."""

    tier: Tier
    entry: Entry
    key: bytes
    age_ms: int
    address: bytes
    similarity: float = 0.0


@dataclass(slots=True)
class Search:
    """What the upper tiers came to. ``stale``: there was one, too old. ``poisoned``: how many records and entries were
    not what they should be. ``lesson``, ``detail``: see ``Verdict``.
    """

    answered: Answered | None = None
    stale: bool = False
    poisoned: int = 0
    lesson: bytes = b""
    detail: str = ""


class UpperTiers:
    """The upper tiers of one cache, asked in order."""

    def __init__(self, store: EntryStore, clock: Clock, tiers: Sequence[UpperTier]) -> None:
        self._store = store
        self._clock = clock
        self._tiers = tuple(sorted(tiers, key=lambda upper: upper.tier.value))

    def ask(self, request: CacheRequest, up_to: Tier) -> Ask | None:
        """What to ask the upper tiers; None where none may answer. Free of cost for the exact tier alone."""
        if up_to is Tier.EXACT:
            return None
        tiers = tuple(upper for upper in self._tiers if upper.tier.value <= up_to.value)
        tiers = tuple(upper for upper in tiers if upper.reads(request))
        question = read_question(request) if tiers else None
        if question is None:
            return None
        return Ask(question, tiers, tuple(upper.clue(question) for upper in tiers))

    async def search(self, request: CacheRequest, ask: Ask, read: Sequence[bytes | None], controls: Controls) -> Search:
        """The first tier's answer. ``read``: the bytes at ``ask.clues``."""
        found, blobs = Search(), iter(read)
        for upper, address in zip(ask.tiers, ask.wanted, strict=True):
            clue = Clue(address, next(blobs)) if address else None
            for candidate in await upper.find(ask.question, clue, controls):
                if await self._settles(request, ask.question, upper, candidate, controls, found):
                    return found
        return found

    async def _settles(
        self,
        request: CacheRequest,
        question: Question,
        upper: UpperTier,
        candidate: Candidate,
        controls: Controls,
        found: Search,
    ) -> bool:
        """Whether no other is to be asked: it answers, or teaches. What came of it stands in ``found``."""
        opened = await self._open(request, question, candidate, found)
        if opened is None:
            await upper.forget(question, candidate)
            return False
        entry, kept_text, key = opened
        age_ms = max(0, self._clock.now_ms() - entry.stored_at_ms)
        if controls.admits_age(age_ms):
            verdict = await upper.judge(question, kept_text, entry.answer, candidate, controls)
            found.lesson = verdict.lesson
            found.detail = verdict.detail or found.detail
            if verdict.ruling is Ruling.REPLAY:
                found.answered = Answered(upper.tier, entry, key, age_ms, candidate.address, verdict.similarity)
                return True
            if verdict.ruling is Ruling.POISONED:
                _poison(found, candidate, f"the {upper.tier.name.lower()} tier's record is of another text")
                await upper.forget(question, candidate)
        else:
            found.stale = True
        return bool(found.lesson)

    async def _open(
        self, request: CacheRequest, question: Question, candidate: Candidate, found: Search
    ) -> tuple[Entry, str, bytes] | None:
        """The entry, the text that it answers and its key, if it is of a request that differs in that text alone."""
        held = await self._store.find(candidate.address, request.epoch_names)
        if held.blob is None:
            return None
        try:
            stored = request_of(held.blob)
            entry = open_sealed(held.blob, stored)
        except Poisoned as error:
            _poison(found, candidate, str(error))
            await self._store.delete(candidate.address, request.epoch_names)
            return None
        kept_text = question.text_in(stored)
        if kept_text is None:
            _poison(found, candidate, "what it points at answers another request")
            return None
        if entry.epochs != held.epochs:
            await self._store.delete(candidate.address, request.epoch_names)  # purged
            return None
        return entry, kept_text, request.key_of(stored, entry.epochs)

    async def keep(self, request: CacheRequest, answer: bytes, up_to: Tier, *, ttl_s: int, lesson: bytes = b"") -> None:
        """Tells the tiers of an answer that was kept. A tier that can't take it is left without: the answer is kept."""
        ask = self.ask(request, up_to)
        if ask is None:
            return
        kept = KeptAnswer(ask.question, request.address, answer, ttl_s, lesson)
        for upper in ask.tiers:
            try:
                await upper.keep(kept)
            except (StoreUnavailable, StoreFull) as error:
                _log.warning("cache_tier_not_told", tier=upper.tier.name.lower(), why=str(error))


def _poison(found: Search, candidate: Candidate, why: str) -> None:
    found.poisoned += 1
    _log.error("cache_pointer_poisoned", address=candidate.address.hex(), why=why)
