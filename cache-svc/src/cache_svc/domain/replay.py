"""What is asked of the cache and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from cache_svc.domain.entry import Entry
from cache_svc.domain.fill import Lead
from meshkit.money import PriceSnapshot, Usage
from meshkit.principal import Principal


class Mode(Enum):
    """What may be read and written."""

    DEFAULT = 1
    OFF = 2
    REFRESH = 3
    ONLY = 4


class MissReason(Enum):
    """Why nothing is replayed."""

    NOT_STORED = 1
    STALE = 2
    NOT_ELIGIBLE = 3
    BYPASSED = 4
    UNAVAILABLE = 5


class Tier(Enum):
    """What found an answer, in the order in which they are asked."""

    EXACT = 1
    CANONICAL = 2
    SEMANTIC = 3


@dataclass(frozen=True, slots=True)
class Controls:
    """What a request asked of the cache. ``max_age_s``: the oldest answer it takes; None: any. ``up_to``: the last tier
    that may answer. ``max_error``: of the semantic tier, the share of its replays that may be wrong, 0 to 1; None: it
    does not answer. ``ttl_s``: the longest that an answer is kept, and so the oldest that is replayed; 0: as long as
    the service keeps any.
    """

    mode: Mode = Mode.DEFAULT
    max_age_s: int | None = None
    allow_sampled: bool = False
    up_to: Tier = Tier.EXACT
    max_error: float | None = None
    ttl_s: int = 0

    def admits_age(self, age_ms: int) -> bool:
        """Whether an answer of this age may be replayed."""
        if self.ttl_s and age_ms > self.ttl_s * 1_000:
            return False
        return self.max_age_s is None or (self.max_age_s > 0 and age_ms <= self.max_age_s * 1_000)


@dataclass(frozen=True, slots=True)
class Subject:
    """Which request: all that the key is made of, besides the epochs. ``body``: the client's, verbatim.
    ``share_in_org``: the organisation's projects replay each other's answers.
    """

    principal: Principal
    endpoint: str
    model: str
    policy_epoch: str
    body: bytes
    share_in_org: bool = False


@dataclass(frozen=True, slots=True)
class Hit:
    """A verified answer, rendered: ``body``, or ``chunks`` where the client asked for a stream. ``similarity``: of the
    two questions, where a tier measured any. ``address``: where it lies.
    """

    entry: Entry
    key: bytes
    age_ms: int
    body: bytes = b""
    chunks: list[bytes] = field(default_factory=list)
    usage_chunk: bytes = b""
    tier: Tier = Tier.EXACT
    similarity: float = 0.0
    address: bytes = field(kw_only=True)

    @property
    def key_digest(self) -> str:
        """What names the entry in logs, in Cache-Status and to a purge. A hash of a request with its scope: whoever can
        guess it has the request, and only its own tenant is shown it.
        """
        return self.address.hex()


@dataclass(frozen=True, slots=True)
class Miss:
    """Nothing to replay. ``key``: leave to store the fresh answer under it; empty: it must not be stored. ``epochs``:
    the purge epochs in it. ``lesson``: what an upper tier wants back with the fresh answer, to learn from it. ``lead``:
    the caller leads the flight of such requests; ``underway``: another does; neither: it goes on by itself.
    """

    reason: MissReason
    key: bytes = b""
    detail: str = ""
    lesson: bytes = b""
    lead: Lead | None = None
    underway: Lead | None = None
    epochs: tuple[int, ...] = field(default=(), compare=False)  # they are in the key


@dataclass(frozen=True, slots=True)
class FreshAnswer:
    """An answer offered for keeping: ``body``, or the payloads of its stream with the usage chunk."""

    usage: Usage
    price: PriceSnapshot
    receipt_id: str
    source_id: str
    upstream_model: str
    body: bytes = b""
    chunks: Sequence[bytes] = ()
