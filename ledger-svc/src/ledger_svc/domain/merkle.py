"""The Merkle tree of the receipt log: hashing, growing, proofs and their verification, as in RFC 9162, section 2.1.

A *perfect subtree* of level L and index I covers the 2^L leaves from I * 2^L on; level 0 is a leaf. Its hash never
changes once its leaves are there, so it can be stored, and every root and proof is made of such hashes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

HASH_BYTES = 32
TILE_LEVELS = 8
"""Of the perfect subtrees those at every eighth level are stored: one in 256 leaves, and so on upwards."""

Node = tuple[int, int]
"""(level, index) of a perfect subtree."""
Range = tuple[int, int]
"""Leaves from, inclusive, and to, exclusive."""


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


EMPTY_ROOT = hashlib.sha256(b"").digest()


@dataclass(frozen=True, slots=True)
class Frontier:
    """All that is needed to grow a tree: the perfect subtrees of its right edge, one for each 1 bit of its size, from
    the largest.

    Raises:
        ValueError: their number does not fit the size.
    """

    size: int = 0
    roots: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if len(self.roots) != self.size.bit_count() or any(len(root) != HASH_BYTES for root in self.roots):
            raise ValueError(f"{len(self.roots)} hashes do not fit a tree of {self.size} leaves")

    def extended(self, leaf_hashes: Iterable[bytes]) -> tuple[Frontier, list[tuple[Node, bytes]]]:
        """The frontier with more leaves, and the subtrees at stored levels that these have completed."""
        roots, size, completed = list(self.roots), self.size, []
        for leaf in leaf_hashes:
            roots.append(leaf)
            level, index = 0, size
            while index & 1:
                right = roots.pop()
                roots[-1] = node_hash(roots[-1], right)
                level, index = level + 1, index >> 1
                if level % TILE_LEVELS == 0:
                    completed.append(((level, index), roots[-1]))
            size += 1
        return Frontier(size, tuple(roots)), completed

    @property
    def root(self) -> bytes:
        """The hash of the whole tree."""
        return fold(self.roots) if self.roots else EMPTY_ROOT

    def encode(self) -> bytes:
        """The hashes, one after another."""
        return b"".join(self.roots)

    @classmethod
    def decode(cls, size: int, data: bytes) -> Frontier:
        """What ``encode`` wrote for a tree of ``size``."""
        return cls(size, tuple(data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)))


def fold(roots: Sequence[bytes]) -> bytes:
    """The hash of a range from its perfect subtrees, from left to right."""
    folded = roots[-1]
    for root in reversed(roots[:-1]):
        folded = node_hash(root, folded)
    return folded


def perfect_root(hashes: Sequence[bytes]) -> bytes:
    """The hash of a perfect subtree from those of all its nodes at one level: 1, 2, 4, ... of them."""
    row = list(hashes)
    assert row, "a subtree has leaves"
    assert len(row).bit_count() == 1, f"{len(row)} nodes do not make a perfect subtree"
    while len(row) > 1:
        row = [node_hash(row[at], row[at + 1]) for at in range(0, len(row), 2)]
    return row[0]


def perfect_subtrees(leaves: Range) -> list[Node]:
    """The largest perfect subtrees that a range falls into, from left to right."""
    start, end = leaves
    found = []
    while start < end:
        level = (end - start).bit_length() - 1
        if start:
            level = min(level, (start & -start).bit_length() - 1)
        found.append((level, start >> level))
        start += 1 << level
    return found


def inclusion_ranges(index: int, size: int) -> list[Range]:
    """The ranges whose hashes prove that leaf ``index`` is in a tree of ``size``, from the leaf up (2.1.3.1)."""
    assert 0 <= index < size, (index, size)
    found, start, end = [], 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            found.append((middle, end))
            end = middle
        else:
            found.append((start, middle))
            start = middle
    return found[::-1]


def consistency_ranges(first: int, second: int) -> list[Range]:
    """The ranges whose hashes prove that a tree of ``first`` leaves begins one of ``second`` (2.1.4.1)."""
    assert 0 <= first <= second, (first, second)
    if first in (0, second):
        return []
    found, start, end, whole = [], 0, second, True
    while end != first:
        middle = start + _split(end - start)
        if first <= middle:
            found.append((middle, end))
            end = middle
        else:
            found.append((start, middle))
            start, whole = middle, False
    if not whole:
        found.append((start, end))
    return found[::-1]


def proof(ranges: Iterable[Range], hashes: Mapping[Node, bytes]) -> list[bytes]:
    """The hashes of ranges, from those of the perfect subtrees that they fall into."""
    return [fold([hashes[node] for node in perfect_subtrees(leaves)]) for leaves in ranges]


def verify_inclusion(leaf: bytes, index: int, size: int, hashes: Sequence[bytes], root: bytes) -> bool:
    """Whether the proof leads from a leaf's hash to the root (2.1.3.2)."""
    if not 0 <= index < size:
        return False
    at, last, reached = index, size - 1, leaf
    for sibling in hashes:
        if last == 0:
            return False
        if at & 1 or at == last:
            reached = node_hash(sibling, reached)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            reached = node_hash(reached, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and reached == root


def verify_consistency(first: int, second: int, first_root: bytes, second_root: bytes, hashes: Sequence[bytes]) -> bool:
    """Whether the proof leads to both roots, so that the first tree begins the second (2.1.4.2)."""
    if not 0 <= first <= second:
        return False
    if first == second:
        return not hashes and first_root == second_root
    if first == 0:
        return not hashes and first_root == EMPTY_ROOT
    path = [first_root, *hashes] if first.bit_count() == 1 else list(hashes)
    if not path:
        return False
    at, last = first - 1, second - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and old == first_root and new == second_root


def _split(size: int) -> int:
    """The largest power of two below ``size``."""
    return 1 << (size - 1).bit_length() - 1
