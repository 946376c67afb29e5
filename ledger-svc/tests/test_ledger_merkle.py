"""The tree: published vectors, and every proof of every small tree, right and wrong."""

from __future__ import annotations

import hashlib
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_svc.domain.merkle import (
    EMPTY_ROOT,
    Frontier,
    Node,
    consistency_ranges,
    fold,
    inclusion_ranges,
    leaf_hash,
    node_hash,
    perfect_root,
    perfect_subtrees,
    proof,
    verify_consistency,
    verify_inclusion,
)

# The eight leaves and the roots of the trees that they make, from the reference implementation of Certificate
# Transparency (RFC 6962, whose hashing RFC 9162 keeps).
CT_LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LEAVES = [hashlib.sha256(bytes([n // 256, n % 256])).digest() for n in range(600)]
SIZES = st.integers(1, len(LEAVES))


@cache
def naive_root(start: int, end: int) -> bytes:
    """The definition, RFC 9162, 2.1.1."""
    if start == end:
        return EMPTY_ROOT
    if end - start == 1:
        return LEAVES[start]
    split = 1
    while split * 2 < end - start:
        split *= 2
    return node_hash(naive_root(start, start + split), naive_root(start + split, end))


def hashes_of(ranges: list[tuple[int, int]]) -> list[bytes]:
    nodes: dict[Node, bytes] = {}
    for leaves in ranges:
        for level, index in perfect_subtrees(leaves):
            nodes[level, index] = perfect_root(LEAVES[index << level : (index + 1) << level])
    return proof(ranges, nodes)


def with_one_bit_changed(data: bytes, bit: int) -> bytes:
    return (int.from_bytes(data, "big") ^ 1 << bit % (8 * len(data))).to_bytes(len(data), "big")


def test_the_roots_of_certificate_transparency() -> None:
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    frontier = Frontier()
    for leaf, root in zip(CT_LEAVES, CT_ROOTS, strict=True):
        frontier, _ = frontier.extended([leaf_hash(leaf)])
        assert frontier.root.hex() == root


def test_the_proofs_of_certificate_transparency() -> None:
    """The paths that the same reference gives for these leaves."""
    tree = [leaf_hash(leaf) for leaf in CT_LEAVES]
    path = [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ]
    assert verify_inclusion(tree[0], 0, 8, [bytes.fromhex(text) for text in path], bytes.fromhex(CT_ROOTS[7]))
    growth = [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]
    assert verify_consistency(
        6, 8, bytes.fromhex(CT_ROOTS[5]), bytes.fromhex(CT_ROOTS[7]), [bytes.fromhex(text) for text in growth]
    )


@pytest.mark.parametrize("size", range(1, 40))
def test_every_proof_of_a_small_tree_verifies(size: int) -> None:
    root = naive_root(0, size)
    for index in range(size):
        path = hashes_of(inclusion_ranges(index, size))
        assert verify_inclusion(LEAVES[index], index, size, path, root)
        assert not any(
            verify_inclusion(LEAVES[index], other, size, path, root) for other in range(size) if other != index
        )
    for first in range(size + 1):
        growth = hashes_of(consistency_ranges(first, size))
        assert verify_consistency(first, size, naive_root(0, first), root, growth)


@given(SIZES, st.data())
def test_a_frontier_grows_to_the_root_by_any_steps(size: int, data: st.DataObject) -> None:
    frontier = Frontier()
    tiles: dict[Node, bytes] = {}
    while frontier.size < size:
        step = data.draw(st.integers(1, size - frontier.size))
        frontier, completed = frontier.extended(LEAVES[frontier.size : frontier.size + step])
        tiles.update(completed)
        frontier = Frontier.decode(frontier.size, frontier.encode())
    assert frontier.root == naive_root(0, size)
    assert tiles == {(8, n): naive_root(n * 256, n * 256 + 256) for n in range(size // 256)}


@given(SIZES, st.data())
def test_an_inclusion_proof_fails_with_any_bit_changed(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    root, path = naive_root(0, size), hashes_of(inclusion_ranges(index, size))
    assert verify_inclusion(LEAVES[index], index, size, path, root)
    bit = data.draw(st.integers(0, 255))
    assert not verify_inclusion(with_one_bit_changed(LEAVES[index], bit), index, size, path, root)
    assert not verify_inclusion(LEAVES[index], index, size, path, with_one_bit_changed(root, bit))
    assert not verify_inclusion(LEAVES[index], index, size, [*path, root], root)
    for at in range(len(path)):
        changed = [*path[:at], with_one_bit_changed(path[at], bit), *path[at + 1 :]]
        assert not verify_inclusion(LEAVES[index], index, size, changed, root)
        assert not verify_inclusion(LEAVES[index], index, size, path[:at] + path[at + 1 :], root)


@given(SIZES, st.data())
def test_a_consistency_proof_fails_with_any_bit_changed(second: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(1, second))
    old, new = naive_root(0, first), naive_root(0, second)
    growth = hashes_of(consistency_ranges(first, second))
    assert verify_consistency(first, second, old, new, growth)
    bit = data.draw(st.integers(0, 255))
    assert not verify_consistency(first, second, with_one_bit_changed(old, bit), new, growth)
    assert not verify_consistency(first, second, old, with_one_bit_changed(new, bit), growth)
    assert not verify_consistency(first, second, old, new, [*growth, new])
    for at in range(len(growth)):
        changed = [*growth[:at], with_one_bit_changed(growth[at], bit), *growth[at + 1 :]]
        assert not verify_consistency(first, second, old, new, changed)
        assert not verify_consistency(first, second, old, new, growth[:at] + growth[at + 1 :])


@given(st.integers(1, 2**40), st.data())
def test_a_proof_of_any_tree_is_short(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    for ranges in (inclusion_ranges(index, size), consistency_ranges(index, size)):
        assert len(ranges) <= size.bit_length() + 1
        assert len({node for leaves in ranges for node in perfect_subtrees(leaves)}) <= 2 * size.bit_length()


@pytest.mark.parametrize(("first", "second"), [(-1, 3), (4, 3)])
def test_sizes_out_of_order_prove_nothing(first: int, second: int) -> None:
    assert not verify_consistency(first, second, EMPTY_ROOT, EMPTY_ROOT, [])
    assert not verify_inclusion(LEAVES[0], second, first, [], LEAVES[0])


def test_a_frontier_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        Frontier.decode(3, LEAVES[0])
    with pytest.raises(ValueError, match="do not fit"):
        Frontier(1, (b"short",))
    assert fold([LEAVES[0]]) == LEAVES[0]
