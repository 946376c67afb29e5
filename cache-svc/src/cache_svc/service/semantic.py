"""The semantic tier: an answer to a question that resembles the one asked, within the user's bound on errors.

It finds the nearest kept question of the same bucket, so all else in the two requests is the same; asks the guards, as
the canonical tier does; and then ``domain.trust``, whether what was learned of the kept answer so far allows a replay.
Where it does not, the lookup is a miss with a lesson: the fresh answer is compared with the kept one, and both are
worth something afterwards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import structlog

from cache_svc.domain.agreement import said
from cache_svc.domain.canonical import NotCanonical
from cache_svc.domain.guards import signature, why_apart
from cache_svc.domain.question import Question
from cache_svc.domain.replay import Controls, Mode, Tier
from cache_svc.domain.request import CacheRequest
from cache_svc.domain.trust import (
    AUDIT,
    LEAST_SIMILARITY,
    STEPS,
    Comparisons,
    exploring_probability,
    step_of_comparison,
)
from cache_svc.service.refusals import StoreUnavailable
from cache_svc.service.tiers import Candidate, Clue, KeptAnswer, Ruling, SemanticCounters, Verdict

_log = structlog.get_logger(__name__)

MAX_TEXT_CHARS = 2_000
"""The longest question that is embedded, in characters: 0.7 ms of CPU. A longer one is an average of so many words that
all long ones resemble each other."""
MOST_CANDIDATES = 4
"""Kept questions that are read for one lookup. Not one alone: the guards keep apart what differs in a word or two,
which is the nearest."""
COMPARISONS_TTL_S = 7 * 24 * 3600
"""Seconds after its first comparison when what was learned of an answer is forgotten, and learned anew."""

Vector = npt.NDArray[np.float32]
"""Of length 1."""


class Embedder(Protocol):
    """Turns a text into a vector."""

    def vector(self, text: str) -> Vector | None:
        """None where nothing in ``text`` is known to it. Two vectors' product is the similarity of their texts."""


class VectorIndex(Protocol):
    """Keeps vectors by bucket. Every method may raise ``StoreUnavailable``. It may lose any vector at any time."""

    async def nearest(self, bucket: bytes, vector: Vector, most: int) -> list[bytes]:
        """The addresses, ``most`` at most, whose vectors in ``bucket`` have the greatest products with ``vector``,
        the greatest first.
        """

    async def add(self, bucket: bytes, address: bytes, vector: Vector, *, ttl_s: int) -> None:
        """Keeps the vector for about ``ttl_s`` seconds, in place of the one that the address had in the bucket."""

    async def remove(self, bucket: bytes, address: bytes) -> None:
        """Forgets the vector, if it is there."""


class ComparisonStore(Protocol):
    """Counts comparisons by name. Every method may raise ``StoreUnavailable``."""

    async def read(self, name: bytes) -> Comparisons:
        """What was counted."""

    async def record(self, name: bytes, step: int, *, right: bool, ttl_s: int) -> None:
        """Counts one. All counts of a name are forgotten ``ttl_s`` seconds after the first."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a fresh answer is to be compared with. ``name``: of the kept answer's comparisons. ``said``: what it says.
    ``step``: of the similarity of the two questions.
    """

    name: bytes
    said: bytes
    step: int

    def to_bytes(self) -> bytes:
        """The form in which it travels with the ticket."""
        return b"".join((self.name, self.said, self.step.to_bytes(2, "big")))

    @classmethod
    def from_bytes(cls, blob: bytes) -> Lesson | None:
        """None where ``blob`` is not one that this build writes: then nothing is learned."""
        step = int.from_bytes(blob[64:], "big")
        return cls(blob[:32], blob[32:64], step) if len(blob) == 66 and step <= STEPS else None


class SemanticTier:
    """An ``UpperTier``. ``random``: uniform in [0, 1)."""

    def __init__(
        self,
        embedder: Embedder,
        vectors: VectorIndex,
        comparisons: ComparisonStore,
        random: Callable[[], float],
        counters: SemanticCounters,
    ) -> None:
        self._embedder = embedder
        self._vectors = vectors
        self._comparisons = comparisons
        self._random = random
        self._counters = counters

    @property
    def tier(self) -> Tier:
        """Asked last."""
        return Tier.SEMANTIC

    def reads(self, request: CacheRequest) -> bool:
        """Not what projects share: the bound is one tenant's, and so is what was learned under it. Not samples, of
        which no comparison says anything. Not log-probabilities: those of another question are never right.
        """
        temperature = request.body.get("temperature")
        sampled = isinstance(temperature, bool) or temperature != 0
        return not (request.shared or sampled or request.body.get("logprobs"))

    def clue(self, question: Question) -> bytes:
        """None: what is nearest is not known by an address."""
        del question
        return b""

    async def find(self, question: Question, clue: Clue | None, controls: Controls) -> list[Candidate]:
        """The nearest ones, where the user has set a bound."""
        del clue
        if controls.max_error is None:
            return []
        vector = self._vector(question.text)
        if vector is None:
            return []
        try:
            nearest = await self._vectors.nearest(_neighbourhood(question), vector, MOST_CANDIDATES)
        except StoreUnavailable as error:
            # Not passed on: the request may still be answered afresh and kept.
            _log.warning("semantic_index_away", why=str(error))
            return []
        return [Candidate(address, vector.tobytes()) for address in nearest]

    async def judge(
        self, question: Question, kept_text: str, answer: bytes, candidate: Candidate, controls: Controls
    ) -> Verdict:
        """Replayed, explored, or another question."""
        if why_apart(kept_text, question.text):
            self._counters.guarded += 1
            return Verdict(Ruling.APART)
        similarity, kept_said = self._similarity(kept_text, candidate), _said(answer)
        if controls.max_error is None or kept_said is None or similarity < LEAST_SIMILARITY:
            return Verdict(Ruling.APART)
        name = _name(candidate.address, kept_said)
        try:
            comparisons = await self._comparisons.read(name)
        except StoreUnavailable as error:
            _log.warning("semantic_comparisons_away", why=str(error))
            return Verdict(Ruling.APART)
        probability = exploring_probability(comparisons, similarity, controls.max_error)
        # Read only: nothing will be called, so nothing be learned, and what the bound asks is all that counts.
        replayed = probability <= AUDIT if controls.mode is Mode.ONLY else self._random() >= probability
        if replayed:
            return Verdict(Ruling.REPLAY, similarity=similarity)
        detail = f"semantic: similarity {similarity:.3f}, {_in_words(probability, comparisons)}"
        if controls.mode is Mode.ONLY:
            return Verdict(Ruling.APART, detail=detail)
        self._counters.explored += 1
        lesson = Lesson(name, kept_said, step_of_comparison(similarity))
        return Verdict(Ruling.APART, lesson.to_bytes(), detail=detail)

    def _similarity(self, kept_text: str, candidate: Candidate) -> float:
        """Computed, not taken from the index, which may have rounded it. To five digits: the same two texts are to have
        the same similarity, and two that differ in nothing that it sees have 1.
        """
        kept = self._vector(kept_text)
        return 0.0 if kept is None else round(float(kept @ np.frombuffer(candidate.context, dtype=np.float32)), 5)

    async def keep(self, kept: KeptAnswer) -> None:
        """Learns, and keeps the question's vector unless another answer was right for it already."""
        lesson = Lesson.from_bytes(kept.lesson)
        if lesson is not None and (fresh_said := _said(kept.answer)) is not None:
            right = fresh_said == lesson.said
            await self._comparisons.record(lesson.name, lesson.step, right=right, ttl_s=COMPARISONS_TTL_S)
            if right:
                self._counters.agreed += 1
                return
            self._counters.disagreed += 1
        vector = self._vector(kept.question.text)
        if vector is not None:
            await self._vectors.add(_neighbourhood(kept.question), kept.address, vector, ttl_s=kept.ttl_s)

    async def forget(self, question: Question, candidate: Candidate) -> None:
        """Its entry is gone."""
        try:
            await self._vectors.remove(_neighbourhood(question), candidate.address)
        except StoreUnavailable as error:
            _log.warning("semantic_index_away", why=str(error))

    def _vector(self, text: str) -> Vector | None:
        return self._embedder.vector(text) if len(text) <= MAX_TEXT_CHARS else None


def _neighbourhood(question: Question) -> bytes:
    """Where its neighbours lie: of the same bucket, and with nothing in them that the guards look for one by one. Else
    the nearest to a question about one order number would be those about all others, each read for nothing.
    """
    return hashlib.sha256(question.bucket + signature(question.text)).digest()


def _name(address: bytes, kept_said: bytes) -> bytes:
    """Of an answer that says something else nothing has been learned, wherever it lies."""
    return hashlib.sha256(address + kept_said).digest()


def _in_words(probability: float, comparisons: Comparisons) -> str:
    if probability <= AUDIT:
        return "compared anew as one in fifty"
    rights, wrongs = sum(comparisons.right.values()), sum(comparisons.wrong.values())
    return f"the bound is not proven by {rights + wrongs} comparisons of which {rights} were right"


def _said(answer: bytes) -> bytes | None:
    try:
        return said(answer)
    except (NotCanonical, KeyError, TypeError, AttributeError):
        return None
