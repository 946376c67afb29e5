"""Vectors and comparisons in this process, bounded in bytes: the bucket that was asked least recently goes first."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from cache_svc.domain.trust import Comparisons
from cache_svc.service.semantic import Vector
from meshkit.clock import Clock

MAX_BUCKET_VECTORS = 4_096
"""Vectors of one bucket; past it the oldest goes. All are looked at: 0.3 ms for as many."""
VECTOR_OVERHEAD_BYTES = 250
"""What a vector costs besides its numbers: its address, its row in a dict and in a list, its time."""
BUCKET_OVERHEAD_BYTES = 1_000
COMPARISONS_MAX_BYTES = 20 * 2**20
NAME_OVERHEAD_BYTES = 1_000
"""What the comparisons of a name cost without any: two dicts, and what holds them."""
COUNT_BYTES = 100
"""What one step costs: its place in a dict that is at most half empty, and two ints."""


class MemoryVectors:
    """A ``VectorIndex`` for one process. It knows the answers that this process was given to keep, and no others."""

    def __init__(self, *, max_bytes: int, clock: Clock, max_bucket_vectors: int = MAX_BUCKET_VECTORS) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._max_bucket_vectors = max_bucket_vectors
        self._buckets: OrderedDict[bytes, _Bucket] = OrderedDict()
        self._held_bytes = 0

    @property
    def held_bytes(self) -> int:
        """With what the interpreter adds."""
        return self._held_bytes

    async def nearest(self, bucket: bytes, vector: Vector, most: int) -> list[bytes]:
        """Exact: every vector of the bucket is looked at."""
        held = self._buckets.get(bucket)
        if held is None:
            return []
        self._buckets.move_to_end(bucket)
        return held.nearest(vector, most, self._clock.monotonic_s())

    async def add(self, bucket: bytes, address: bytes, vector: Vector, *, ttl_s: int) -> None:
        """Makes room by dropping whole buckets; a bucket that alone is too large is not kept."""
        held = self._buckets.pop(bucket, None)
        if held is None:
            held = _Bucket(vector.size, self._max_bucket_vectors)
        else:
            self._held_bytes -= held.size_bytes
        held.put(address, vector, now_s=self._clock.monotonic_s(), ttl_s=ttl_s)
        if held.size_bytes > self._max_bytes:
            return
        self._buckets[bucket] = held
        self._held_bytes += held.size_bytes
        while self._held_bytes > self._max_bytes:
            _, dropped = self._buckets.popitem(last=False)
            self._held_bytes -= dropped.size_bytes

    async def remove(self, bucket: bytes, address: bytes) -> None:
        """The bucket goes with its last vector."""
        held = self._buckets.get(bucket)
        if held is None:
            return
        self._held_bytes -= held.size_bytes
        held.drop(address)
        if held.is_empty:
            del self._buckets[bucket]
        else:
            self._held_bytes += held.size_bytes


class _Bucket:
    """Rows of a matrix that doubles as it fills; past its bound the oldest row is written over."""

    def __init__(self, dimensions: int, max_rows: int) -> None:
        self._max_rows = max_rows
        self._matrix = np.zeros((1, dimensions), dtype=np.float32)
        self._expires_at_s = np.zeros(1, dtype=np.float64)  # 0: the row is free
        self._addresses = [b""]
        self._rows: OrderedDict[bytes, int] = OrderedDict()  # oldest first
        self._free = [0]

    @property
    def is_empty(self) -> bool:
        return not self._rows

    @property
    def size_bytes(self) -> int:
        return self._matrix.nbytes + len(self._addresses) * VECTOR_OVERHEAD_BYTES + BUCKET_OVERHEAD_BYTES

    def nearest(self, vector: Vector, most: int, now_s: float) -> list[bytes]:
        # einsum and not @, whose threads wait for each other on a busy machine.
        products = np.where(self._expires_at_s > now_s, np.einsum("ij,j->i", self._matrix, vector), -np.inf)
        rows = np.argpartition(-products, most)[:most] if most < len(products) else np.arange(len(products))
        ranked = rows[np.argsort(-products[rows], kind="stable")]
        return [self._addresses[row] for row in ranked if products[row] != -np.inf]

    def put(self, address: bytes, vector: Vector, *, now_s: float, ttl_s: int) -> None:
        self.drop(address)
        if not self._free:
            self._make_room(now_s)
        row = self._free.pop()
        self._matrix[row], self._expires_at_s[row], self._addresses[row] = vector, now_s + ttl_s, address
        self._rows[address] = row

    def drop(self, address: bytes) -> None:
        row = self._rows.pop(address, None)
        if row is not None:
            self._expires_at_s[row] = 0
            self._free.append(row)

    def _make_room(self, now_s: float) -> None:
        for row in np.flatnonzero(self._expires_at_s <= now_s):
            self.drop(self._addresses[row])
        if self._free:
            return
        had = len(self._addresses)
        more = min(had, self._max_rows - had)
        if more == 0:
            self.drop(next(iter(self._rows)))
            return
        self._matrix = np.concatenate([self._matrix, np.zeros((more, self._matrix.shape[1]), dtype=np.float32)])
        self._expires_at_s = np.concatenate([self._expires_at_s, np.zeros(more)])
        self._addresses.extend([b""] * more)
        self._free.extend(range(had, had + more))


class MemoryComparisons:
    """A ``ComparisonStore`` for one process; the name that was used least recently goes first."""

    def __init__(self, *, clock: Clock, max_bytes: int = COMPARISONS_MAX_BYTES) -> None:
        self._clock = clock
        self._max_bytes = max_bytes
        self._held_bytes = 0
        self._counts: OrderedDict[bytes, tuple[Comparisons, float]] = OrderedDict()

    async def read(self, name: bytes) -> Comparisons:
        """What was counted."""
        comparisons, expires_at_s = self._counts.get(name, (Comparisons(), np.inf))
        if self._clock.monotonic_s() >= expires_at_s:
            self._drop(name)
            return Comparisons()
        if name in self._counts:
            self._counts.move_to_end(name)
        return comparisons

    async def record(self, name: bytes, step: int, *, right: bool, ttl_s: int) -> None:
        """Counts one."""
        comparisons = (await self.read(name)).with_one(step, right=right)
        _, expires_at_s = self._counts.get(name, (None, self._clock.monotonic_s() + ttl_s))
        if name in self._counts:
            self._drop(name)
        self._counts[name] = (comparisons, expires_at_s)
        self._held_bytes += _size(comparisons)
        while self._held_bytes > self._max_bytes:
            self._drop(next(iter(self._counts)))

    def _drop(self, name: bytes) -> None:
        comparisons, _ = self._counts.pop(name)
        self._held_bytes -= _size(comparisons)


def _size(comparisons: Comparisons) -> int:
    return NAME_OVERHEAD_BYTES + COUNT_BYTES * (len(comparisons.right) + len(comparisons.wrong))
