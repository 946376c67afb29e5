"""What the use cases of answers need of a store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cache_svc.domain.fill import Claim, Lead
from cache_svc.domain.request import Group
from cache_svc.domain.statistics import Held


@dataclass(frozen=True, slots=True)
class Found:
    """What a store holds: the epochs in force and the bytes at the address and at the clues, in the order asked for.
    ``leader``: of the flight, where the claim was made with it; see ``FillStore.board``. ``leads``: it is who asked.
    """

    epochs: tuple[int, ...]
    blob: bytes | None
    clues: tuple[bytes | None, ...] = ()
    leader: str = ""
    leads: bool = False


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a flight whose answer is kept, and the ``event`` that says so; see ``FillStore.end``."""

    lead: Lead
    event: bytes


@dataclass(frozen=True, slots=True)
class Put:
    """``kept``: False where the epochs are others by now. ``ended``: the flight was ended with it, which not every
    backend does.
    """

    kept: bool
    ended: bool = False


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

    async def find(
        self,
        address: bytes,
        epoch_names: Sequence[str],
        clues: Sequence[bytes] = (),
        claim: Claim | None = None,
    ) -> Found:
        """The bytes at ``address`` and at the addresses ``clues``, and the epochs, in one round trip. Where nothing is
        at ``address``, ``claim`` may be made in the same; a backend that makes it says who leads.
        """

    async def epochs(self, epoch_names: Sequence[str]) -> tuple[int, ...]:
        """The epochs in force."""

    async def put(
        self,
        address: bytes,
        blob: bytes,
        *,
        ttl_s: int,
        epoch_names: Sequence[str],
        epochs: Sequence[int] = (),
        ending: Ending | None = None,
    ) -> Put:
        """Keeps ``blob`` for ``ttl_s`` seconds, and its epochs longer, if these are ``epochs`` now; none given:
        whatever they are. ``ending``: may be said in the same round trip. ``StoreFull``: it was not kept.
        """

    async def delete(self, address: bytes, epoch_names: Sequence[str] = ()) -> None:
        """Forgets what is at ``address``, if anything. ``epoch_names``: those that it was put with, for the count."""

    async def raise_epoch(self, epoch_name: str) -> int:
        """Sets the epoch to a value that it never had before, above the last one, and returns it."""

    async def under(self, prefix: str) -> list[tuple[bytes, bytes]]:
        """Addresses that begin with these hex digits, whosever they are, with their bytes. Looks at all addresses."""

    async def usage(self) -> StoreUsage:
        """What is held."""

    async def held(self, org_id: str) -> Mapping[Group, Held] | None:
        """What is held of an organisation, by the group that its ``epoch_names`` say, entries among it that were purged
        and not looked up since; None: the backend does not count that.

        In memory it is exact. In Redis, entries and bytes are those that are there, without what Redis adds to them;
        evictions are entries found gone before their time, when another of their group is kept or they are counted. If
        Redis evicts the index itself, what it had is counted no more.
        """


NewEpoch = Callable[[], int]
"""Gives a positive int64 that no process was given before, and that grows with time."""
