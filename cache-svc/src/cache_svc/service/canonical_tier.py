"""The canonical tier: the same question in other words that change nothing.

It keeps no answers, only pointers: under the hash of the bucket and the normal form, the address of the entry of the
last question with that form. Pointers lie among the entries, so that one bound and one TTL hold for both and a pointer
is read in the round trip of the exact entry.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from cache_svc.domain.guards import why_apart
from cache_svc.domain.question import Question
from cache_svc.domain.replay import Controls, Tier
from cache_svc.domain.request import CacheRequest
from cache_svc.domain.wording.normal_form import normal_form
from cache_svc.service.ports import EntryStore
from cache_svc.service.tiers import Candidate, Clue, KeptAnswer, Ruling, Verdict

POINTER_MAGIC = b"TGP1"
_DOMAIN = b"tallygate canonical pointer 1\0"
"""Keeps the addresses of pointers apart from those of entries. Raised with each change of the normal form, so that a
pointer is never read under another one than it was written under."""
_ADDRESS_BYTES = 32


class CanonicalTier:
    """An ``UpperTier`` over the exact tier's store."""

    def __init__(self, store: EntryStore) -> None:
        self._store = store

    @property
    def tier(self) -> Tier:
        """The first above the exact one."""
        return Tier.CANONICAL

    def clue(self, question: Question) -> bytes:
        """Where the pointer lies; empty where only the text itself is the same, which the exact tier finds."""
        form = normal_form(question.text)
        if not form.plain:
            return b""
        return hashlib.sha256(_DOMAIN + question.bucket + form.text.encode()).digest()

    def reads(self, request: CacheRequest) -> bool:
        """All that has a question."""
        del request
        return True

    async def find(self, question: Question, clue: Clue | None, controls: Controls) -> Sequence[Candidate]:
        """What the pointer names. One that is none is deleted."""
        del controls
        if clue is None or clue.blob is None:
            return ()
        address = clue.blob.removeprefix(POINTER_MAGIC)
        if len(address) != _ADDRESS_BYTES or len(clue.blob) == len(address):
            await self._store.delete(clue.address, question.epoch_names)
            return ()
        return (Candidate(address, context=clue.address),)

    async def judge(
        self, question: Question, kept_text: str, answer: bytes, candidate: Candidate, controls: Controls
    ) -> Verdict:
        """Both texts are read again: neither the hash nor the pointer is trusted, and the guards have the last word."""
        del answer, candidate, controls
        if normal_form(kept_text) != normal_form(question.text):
            return Verdict(Ruling.POISONED)
        return Verdict(Ruling.APART if why_apart(kept_text, question.text) else Ruling.REPLAY)

    async def keep(self, kept: KeptAnswer) -> None:
        """Points at the answer, for as long as it is kept."""
        address = self.clue(kept.question)
        if address:
            pointer = POINTER_MAGIC + kept.address
            await self._store.put(address, pointer, ttl_s=kept.ttl_s, epoch_names=kept.question.epoch_names)

    async def forget(self, question: Question, candidate: Candidate) -> None:
        """Takes the pointer away."""
        await self._store.delete(candidate.context, question.epoch_names)
