"""A Markov equivalence class of DAGs, as its completed graph (CPDAG)."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool

from attnchain.causal.bitsets import flood, members
from attnchain.causal.orientation import completed, consistent_dag, topological_order
from attnchain.causal.reading import read_graph
from attnchain.errors import ArgumentError
from attnchain.optional import require

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True)
class EquivalenceClass:
    """All DAGs with one skeleton and one set of colliders, as their completed graph.

    A directed edge has that direction in every DAG of the class, an undirected one
    has both among them. Two classes are equal where their graphs are. Make one with
    `from_graph` or `empty`; the constructor takes fields as they are.

    Attributes:
        parents: For each node the set of nodes with a directed edge into it; bit i of
            the number is node i.
        neighbors: For each node the set of nodes joined to it by an undirected edge.

    Sources:
        Andersson, Madigan and Perlman, Annals of Statistics 25 (1997), 505-541.

    Example:
        >>> EquivalenceClass.from_graph([[0, 1, 0], [0, 0, 1], [0, 0, 0]])
        EquivalenceClass(0-1, 1-2)
        >>> EquivalenceClass.from_graph([[0, 0, 1], [0, 0, 1], [0, 0, 0]])
        EquivalenceClass(0->2, 1->2)
    """

    parents: tuple[int, ...]
    neighbors: tuple[int, ...]

    @classmethod
    def empty(cls, n_nodes: int) -> "EquivalenceClass":
        """The class of the graph without edges."""
        return cls((0,) * n_nodes, (0,) * n_nodes)

    @classmethod
    def from_graph(cls, graph: Any) -> "EquivalenceClass":
        """The class of a DAG, or the class a completed graph stands for.

        Args:
            graph: A `networkx.DiGraph`, a square array or a data frame of 0 and 1:
                entry [i, j] is an edge from i to j. An edge in both directions is an
                undirected one. Nodes are numbered in the order given.

        Raises:
            ArgumentError: A cycle, a loop, an undirected graph, entries that are not
                0 or 1, or a partly directed graph that is not completed.
        """
        edges = read_graph(graph)
        both = edges & edges.T
        parents = _masks((edges & ~both).T)
        neighbors = _masks(both)
        dag = consistent_dag(parents, neighbors)
        order = topological_order(dag)
        if order is None:
            message = (
                "the graph has a directed cycle; a class is made of a graph without one"
            )
            raise ArgumentError(message)
        found = cls(*completed(dag, order))
        if both.any() and found != cls(parents, neighbors):
            message = (
                "the partly directed graph is not completed: no class of DAGs has "
                "exactly these directed and undirected edges; give one of its DAGs"
            )
            raise ArgumentError(message)
        return found

    @classmethod
    def from_packed(cls, packed: bytes, n_nodes: int) -> "EquivalenceClass":
        """The class that `packed` wrote."""
        width = (n_nodes + 7) // 8
        into = [
            int.from_bytes(packed[i * width : (i + 1) * width], "little")
            for i in range(n_nodes)
        ]
        neighbors = tuple(
            sum(1 << u for u in members(mask) if into[u] >> v & 1)
            for v, mask in enumerate(into)
        )
        parents = tuple(a & ~b for a, b in zip(into, neighbors, strict=True))
        return cls(parents, neighbors)

    def packed(self) -> bytes:
        """The graph in n * ceil(n / 8) bytes: one bit for each end of an edge."""
        width = (self.n_nodes + 7) // 8
        pairs = zip(self.parents, self.neighbors, strict=True)
        return b"".join((a | b).to_bytes(width, "little") for a, b in pairs)

    @property
    def n_nodes(self) -> int:
        """Number of nodes."""
        return len(self.parents)

    @cached_property
    def n_edges(self) -> int:
        """Number of edges, directed and undirected."""
        directed = sum(mask.bit_count() for mask in self.parents)
        return directed + sum(mask.bit_count() for mask in self.neighbors) // 2

    @cached_property
    def adjacent(self) -> tuple[int, ...]:
        """For each node the nodes joined to it by an edge of either kind."""
        sets = [a | b for a, b in zip(self.parents, self.neighbors, strict=True)]
        for node, mask in enumerate(self.parents):
            here = 1 << node
            for parent in members(mask):
                sets[parent] |= here
        return tuple(sets)

    @cached_property
    def above(self) -> tuple[int, ...]:
        """For each x the nodes y from which a path y -> z, ..., x starts directed.

        Later edges of the path may be undirected, none points backwards.
        """
        order = topological_order(list(self.parents))
        if order is None:
            raise ArgumentError("the directed edges of the class have a cycle")
        reaching, above = [0] * self.n_nodes, [0] * self.n_nodes
        for node in order:
            reaching[node] = flood(self.neighbors, 1 << node, -1)
            above[node] = todo = self.parents[node]
            while todo:
                parent = todo.bit_length() - 1
                reaching[node] |= reaching[parent]
                above[node] |= above[parent]
                todo &= ~reaching[parent]
        return tuple(above)

    def dag(self) -> list[int]:
        """Parents of every node in one DAG of the class."""
        return consistent_dag(self.parents, self.neighbors)

    def to_matrix(self) -> Bool[np.ndarray, "n n"]:
        """Entry [i, j]: an edge from i to j; an undirected one is there twice."""
        width = (self.n_nodes + 7) // 8
        rows = np.frombuffer(self.packed(), np.uint8).reshape(self.n_nodes, width)
        bits = np.unpackbits(rows, axis=1, count=self.n_nodes, bitorder="little")
        return bits.T.astype(bool)

    def to_networkx(self, names: Sequence[Hashable] | None = None) -> "nx.DiGraph":
        """The completed graph; an undirected edge is one in each direction.

        Args:
            names: One name for each node; by default its number.

        Raises:
            ArgumentError: Not one distinct name for each node.
            MissingExtraError: networkx is not installed.
        """
        networkx = require("networkx", extra="causal", feature="A graph to draw")
        names = list(range(self.n_nodes)) if names is None else list(names)
        if len(set(names)) != self.n_nodes or len(names) != self.n_nodes:
            message = f"names must be {self.n_nodes} distinct ones, but are {names!r}"
            raise ArgumentError(message)
        graph = networkx.DiGraph()
        graph.add_nodes_from(names)
        graph.add_edges_from((names[i], names[j]) for i, j in self._edges())
        return graph

    def _edges(self) -> list[tuple[int, int]]:
        return [(int(i), int(j)) for i, j in np.argwhere(self.to_matrix())]

    def __repr__(self) -> str:
        matrix = self.to_matrix()
        parts = [
            f"{i}{'-' if matrix[j, i] else '->'}{j}"
            for i, j in self._edges()
            if i < j or not matrix[j, i]
        ]
        inside = ", ".join(parts) if parts else f"{self.n_nodes} nodes, no edge"
        return f"EquivalenceClass({inside})"


def _masks(matrix: Bool[np.ndarray, "n n"]) -> tuple[int, ...]:
    return tuple(sum(1 << int(j) for j in np.flatnonzero(row)) for row in matrix)
