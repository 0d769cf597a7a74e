"""The moves of greedy equivalence search: one edge more or one edge less.

`Insert(x, y, T)` makes x and y adjacent and directs T -> y; `Delete(x, y, H)` takes
their edge away and directs x, y -> H. With N the neighbours of y and NA those of them
adjacent to x, an insertion is valid where NA and T together are a clique that blocks
every path from y to x along edges that do not point backwards (T within N, not
adjacent to x); a deletion where NA without H is a clique. Different moves may lead to
one class: they count one each, and as many deletions lead back.

Sources:
    Chickering, Optimal structure identification with greedy search, JMLR 3 (2002),
    theorems 15 and 17. Schauer and Wienöbst, arXiv 2310.05655, count them in
    polynomial time; here, cliques that must lie in T are found first (every neighbour
    of y with a path of its own to x), so that the rest of T is any clique of a chordal
    graph.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from attnchain.causal.bitsets import common, flood, is_clique, members
from attnchain.causal.cliques import below, count_cliques, draw_clique, list_cliques
from attnchain.causal.equivalence import EquivalenceClass
from attnchain.causal.orientation import completed, consistent_dag, topological_order
from attnchain.errors import ArgumentError

INSERT, DELETE = 1, -1


class Move(NamedTuple):
    """An insertion or a deletion.

    Attributes:
        kind: `INSERT` (1) or `DELETE` (-1): the change in the number of edges.
        x: The node an edge to y comes from or goes away from.
        y: The other node.
        subset: T of an insertion, H of a deletion; bit i is node i.
    """

    kind: int
    x: int
    y: int
    subset: int


class _Block(NamedTuple):
    """Moves that differ in x, y within two sets and in a clique of a pool."""

    kind: int
    xs: int
    ys: int
    base: int
    pool: int
    cliques: int

    @property
    def size(self) -> int:
        return self.xs.bit_count() * self.ys.bit_count() * self.cliques

    def move(self, x: int, y: int, clique: int) -> Move:
        free = clique if self.kind == INSERT else self.pool & ~clique
        return Move(self.kind, x, y, self.base | free)


def list_moves(graph: EquivalenceClass, kind: int) -> Iterator[Move]:
    """All valid moves of a kind, each once.

    Args:
        graph: The class to move from.
        kind: `INSERT` or `DELETE`.

    Example:
        >>> chain = EquivalenceClass.from_graph([[0, 1, 0], [0, 0, 1], [0, 0, 0]])
        >>> [apply_move(chain, move) for move in list_moves(chain, DELETE)][:2]
        [EquivalenceClass(1-2), EquivalenceClass(1-2)]
    """
    for block in _blocks(graph, kind):
        cliques = list(list_cliques(graph.neighbors, block.pool))
        for x in members(block.xs):
            for y in members(block.ys):
                for clique in cliques:
                    yield block.move(x, y, clique)


def count_moves(graph: EquivalenceClass, kind: int) -> int:
    """Number of valid moves of a kind, in polynomial time.

    Example:
        >>> count_moves(EquivalenceClass.empty(3), INSERT)
        6
    """
    return sum(block.size for block in _blocks(graph, kind))


def draw_move(
    graph: EquivalenceClass, kind: int, generator: np.random.Generator
) -> Move:
    """One valid move of a kind, each with the same probability.

    Raises:
        ArgumentError: There is none.
    """
    return MoveTable(graph, kind).draw(generator)


class MoveTable:
    """The moves of a kind out of a class: how many, and a uniform draw."""

    def __init__(self, graph: EquivalenceClass, kind: int) -> None:
        self._graph = graph
        self._blocks = list(_blocks(graph, kind))
        self.count = sum(block.size for block in self._blocks)

    def draw(self, generator: np.random.Generator) -> Move:
        """One move, each with the same probability."""
        if not self.count:
            raise ArgumentError(f"{self._graph!r} has no move of this kind")
        place = below(self.count, generator)
        for block in self._blocks:
            if place < block.size:
                pair = place // block.cliques
                across, down = divmod(pair, block.ys.bit_count())
                x = _member(block.xs, across)
                y = _member(block.ys, down)
                clique = draw_clique(self._graph.neighbors, block.pool, generator)
                return block.move(x, y, clique)
            place -= block.size
        raise AssertionError("a place beyond the count")


def apply_move(graph: EquivalenceClass, move: Move) -> EquivalenceClass:
    """The class a valid move leads to.

    Raises:
        ArgumentError: The move is not valid in this class.

    Example:
        >>> apply_move(EquivalenceClass.empty(2), Move(INSERT, 0, 1, 0))
        EquivalenceClass(0-1)
    """
    if not is_valid(graph, move):
        raise ArgumentError(f"{move} is not a valid move of {graph!r}")
    return moved(graph, move)


def moved(graph: EquivalenceClass, move: Move) -> EquivalenceClass:
    """The class a move leads to that is known to be valid."""
    kind, x, y, subset = move
    shared = graph.neighbors[y] & graph.adjacent[x]
    ahead = list(members(shared | subset if kind == INSERT else shared & ~subset))
    if graph.neighbors[y] >> x & 1:
        ahead.append(x)
    first = (*ahead, y) if graph.neighbors[y] else ()
    dag = consistent_dag(graph.parents, graph.neighbors, first)
    dag[y] = dag[y] | 1 << x if kind == INSERT else dag[y] & ~(1 << x)
    order = topological_order(dag)
    if order is None:
        raise AssertionError(f"{move} made a cycle in {graph!r}")
    return EquivalenceClass(*completed(dag, order))


def is_valid(graph: EquivalenceClass, move: Move) -> bool:
    """Whether the conditions of the operators hold, word by word."""
    kind, x, y, subset = move
    n = graph.n_nodes
    if kind not in {INSERT, DELETE} or not (0 <= x < n and 0 <= y < n) or x == y:
        return False
    neighbors, shared = graph.neighbors[y], graph.neighbors[y] & graph.adjacent[x]
    if kind == DELETE:
        joined = (graph.parents[y] | neighbors) >> x & 1
        return bool(
            joined
            and not subset & ~shared
            and is_clique(graph.neighbors, shared & ~subset)
        )
    if graph.adjacent[x] >> y & 1 or subset & ~(neighbors & ~graph.adjacent[x]):
        return False
    blocking = shared | subset
    return is_clique(graph.neighbors, blocking) and not _reaches(graph, y, x, blocking)


def _reaches(graph: EquivalenceClass, start: int, end: int, blocking: int) -> bool:
    """Whether a path without backward edges avoids the blocking nodes."""
    children = [graph.adjacent[v] & ~graph.parents[v] for v in range(graph.n_nodes)]
    return bool(flood(tuple(children), 1 << start, ~blocking) >> end & 1)


def _blocks(graph: EquivalenceClass, kind: int) -> Iterator[_Block]:
    if kind == INSERT:
        return _insertions(graph)
    if kind == DELETE:
        return _deletions(graph)
    raise ArgumentError(f"kind must be INSERT (1) or DELETE (-1), but is {kind!r}")


def _deletions(graph: EquivalenceClass) -> Iterator[_Block]:
    for y, neighbors in enumerate(graph.neighbors):
        xs = graph.parents[y] | neighbors
        alone = xs if not neighbors else 0
        if alone:
            yield _Block(DELETE, alone, 1 << y, 0, 0, 1)
        for x in members(xs & ~alone):
            pool = neighbors & graph.adjacent[x]
            cliques = count_cliques(graph.neighbors, pool)
            yield _Block(DELETE, 1 << x, 1 << y, 0, pool, cliques)


def _insertions(graph: EquivalenceClass) -> Iterator[_Block]:
    everyone = (1 << graph.n_nodes) - 1
    alone = sum(1 << v for v, near in enumerate(graph.neighbors) if not near)
    territories = {y: _territories(graph, y) for y in members(everyone & ~alone)}
    for x in range(graph.n_nodes):
        here = 1 << x
        free = everyone & ~graph.adjacent[x] & ~graph.above[x] & ~here
        if free & alone:
            yield _Block(INSERT, here, free & alone, 0, 0, 1)
        for y in members(free & ~alone):
            entries = here | graph.above[x]
            required = 0
            for start, territory in territories[y]:
                if territory & entries:
                    required |= start
            block = _insertion(graph, x, y, required & ~graph.adjacent[x])
            if block:
                yield block


def _insertion(graph: EquivalenceClass, x: int, y: int, required: int) -> _Block | None:
    """The insertions from x to y, where T must hold the required neighbours."""
    near, adjacent = graph.neighbors, graph.adjacent[x]
    certain = near[y] & adjacent | required
    if not is_clique(near, certain):
        return None
    pool = common(near, certain, near[y] & ~adjacent & ~required)
    cliques = count_cliques(near, pool)
    return _Block(INSERT, 1 << x, 1 << y, required, pool, cliques)


def _territories(graph: EquivalenceClass, y: int) -> list[tuple[int, int]]:
    """For each neighbour of y, what it reaches undirected without y and the others."""
    others = graph.neighbors[y] | 1 << y
    return [
        (1 << a, flood(graph.neighbors, 1 << a, ~others))
        for a in members(graph.neighbors[y])
    ]


def _member(nodes: int, place: int) -> int:
    for _ in range(place):
        nodes &= nodes - 1
    return (nodes & -nodes).bit_length() - 1
