"""Cliques of a chordal graph: counted, listed and drawn without listing them all.

In maximum cardinality order the earlier neighbours of every node v, b(v), form a
clique, so the cliques whose last node is v are v with any subset of b(v):
1 + sum_v 2^|b(v)| cliques in all, the empty one included.
"""

from collections.abc import Iterator

import numpy as np

from attnchain.causal.bitsets import members
from attnchain.causal.orientation import cardinality_order


def _earlier(neighbors: tuple[int, ...], pool: int) -> list[tuple[int, int]]:
    """Pairs of a node and its earlier neighbours, in maximum cardinality order."""
    placed, pairs = 0, []
    for node in cardinality_order(neighbors, pool):
        pairs.append((1 << node, neighbors[node] & placed))
        placed |= 1 << node
    return pairs


def count_cliques(neighbors: tuple[int, ...], pool: int) -> int:
    """Number of cliques within the pool, the empty one included."""
    if not pool:
        return 1
    pairs = _earlier(neighbors, pool)
    return 1 + sum(1 << behind.bit_count() for _, behind in pairs)


def list_cliques(neighbors: tuple[int, ...], pool: int) -> Iterator[int]:
    """All cliques within the pool, the empty one first."""
    yield 0
    for node, behind in _earlier(neighbors, pool):
        subset = behind
        while True:
            yield node | subset
            if not subset:
                break
            subset = (subset - 1) & behind


def draw_clique(
    neighbors: tuple[int, ...], pool: int, generator: np.random.Generator
) -> int:
    """One clique within the pool, each with the same probability."""
    if not pool:
        return 0
    pairs = _earlier(neighbors, pool)
    sizes = [1 << behind.bit_count() for _, behind in pairs]
    place = below(1 + sum(sizes), generator)
    for (node, behind), size in zip(pairs, sizes, strict=True):
        if place < size:
            chosen = sum(
                1 << v for i, v in enumerate(members(behind)) if place >> i & 1
            )
            return node | chosen
        place -= size
    return 0


def below(limit: int, generator: np.random.Generator) -> int:
    """A whole number in 0..limit - 1, uniformly, however large the limit is."""
    if limit < 1 << 62:
        return int(generator.integers(limit))
    bits = limit.bit_length()
    while True:
        number = int.from_bytes(generator.bytes((bits + 7) // 8), "little")
        number &= (1 << bits) - 1
        if number < limit:
            return number
