"""What sampling and enumeration return: weighted classes and their edges."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from attnchain.causal.equivalence import EquivalenceClass
from attnchain.checks import check_count
from attnchain.errors import ArgumentError

_CHUNK = 4096
_FEWEST_EVENTS = 100
_BATCHES = 25
"""For the errors of edges: few and long, since some edges change rarely."""
_FEWEST_BATCHES = 12
_DRAWS_PER_BATCH = 5
"""Effective draws a batch must hold for its mean to be independent of the next."""


class Edge(NamedTuple):
    """Probabilities of one pair of nodes: adjacent, and with which direction."""

    first: str
    second: str
    adjacent: float
    forward: float
    backward: float
    error: float


@dataclass(frozen=True, eq=False)
class EdgeProbabilities:
    """Posterior probabilities of edges.

    Attributes:
        names: Names of the nodes.
        adjacency: Probability that i and j are adjacent, symmetric.
        directed: Probability that i -> j is directed in the class: all of its DAGs
            have it. What is missing to the adjacency is undirected.
        adjacency_error: Standard errors by batch means; zero where exact, and where
            the edge was there in every row or in none: then it is only rare.
        directed_error: Likewise.
    """

    names: tuple[str, ...]
    adjacency: Float[np.ndarray, "n n"]
    directed: Float[np.ndarray, "n n"]
    adjacency_error: Float[np.ndarray, "n n"]
    directed_error: Float[np.ndarray, "n n"]

    def pairs(self) -> list[Edge]:
        """One row for each pair, the most probable adjacency first.

        `pandas.DataFrame(edges.pairs())` is a table of them.
        """
        n = len(self.names)
        rows = [self._pair(i, j) for i in range(n) for j in range(i + 1, n)]
        return sorted(rows, key=lambda edge: -edge.adjacent)

    def _pair(self, i: int, j: int) -> Edge:
        numbers = (
            self.adjacency[i, j],
            self.directed[i, j],
            self.directed[j, i],
            self.adjacency_error[i, j],
        )
        return Edge(self.names[i], self.names[j], *map(float, numbers))


@dataclass(frozen=True, eq=False)
class ClassPosterior:
    """Distinct classes and their probabilities, the most probable first.

    Attributes:
        names: Names of the nodes.
        classes: The classes.
        probabilities: Their probabilities, which sum to one.
    """

    names: tuple[str, ...]
    classes: tuple[EquivalenceClass, ...]
    probabilities: Float[np.ndarray, " classes"]

    def edge_probabilities(self) -> EdgeProbabilities:
        """Probabilities of edges under these class probabilities, without error."""
        into = _unpacked(packed_array(self.classes, len(self.names)))
        adjacency, directed = _means(into, self.probabilities[None])
        zero = np.zeros_like(adjacency[0])
        return EdgeProbabilities(self.names, adjacency[0], directed[0], zero, zero)


@dataclass(frozen=True, eq=False)
class ClassSample:
    """The path of a process over classes, one row for each event.

    Rows are weighted by the expected time the process stays there. Memory is
    n * ceil(n / 8) + 9 bytes a row.

    Attributes:
        names: Names of the nodes.
        graphs: `EquivalenceClass.packed` of the class before each event.
        log_holding: ln of the expected time until the event.
        changes: What the event did to the number of edges: 1, -1, or 0 for a turn.
    """

    names: tuple[str, ...]
    graphs: UInt8[np.ndarray, "events n bytes"]
    log_holding: Float[np.ndarray, " events"]
    changes: Int[np.ndarray, " events"]

    @property
    def n_moves(self) -> int:
        """Number of moves; turns are not counted."""
        return int(np.count_nonzero(self.changes))

    @property
    def weights(self) -> Float[np.ndarray, " events"]:
        """Share of the time in each row; sums to one."""
        scaled = np.exp(self.log_holding - self.log_holding.max())
        return scaled / scaled.sum()

    @property
    def n_edges(self) -> Int[np.ndarray, " events"]:
        """Number of edges in each row."""
        first = EquivalenceClass.from_packed(self.graphs[0].tobytes(), len(self.names))
        steps = np.concatenate([[0], self.changes[:-1]]).astype(np.int64)
        return first.n_edges + steps.cumsum()

    def after(self, moves: int) -> "ClassSample":
        """The sample without its first moves, to forget the start.

        Raises:
            ArgumentError: Nothing would be left.
        """
        high = self.n_moves - 1
        check_count(moves, "moves", low=0, high=high, meaning="moves to drop")
        past = int(np.searchsorted(np.cumsum(self.changes != 0), moves, side="left"))
        rows = slice(past + 1 if moves else 0, None)
        parts = self.graphs[rows], self.log_holding[rows], self.changes[rows]
        return ClassSample(self.names, *parts)

    def posterior(self) -> ClassPosterior:
        """The share of the time in each distinct class."""
        flat = self.graphs.reshape(len(self.graphs), -1)
        keys = np.ascontiguousarray(flat).view(f"V{flat.shape[1]}").reshape(-1)
        _, first, place = np.unique(keys, return_index=True, return_inverse=True)
        shares = np.bincount(place.reshape(-1), self.weights)
        order = np.argsort(-shares, kind="stable")
        n = len(self.names)
        packed = (flat[first[i]].tobytes() for i in order)
        classes = tuple(EquivalenceClass.from_packed(row, n) for row in packed)
        return ClassPosterior(self.names, classes, shares[order])

    def edge_probabilities(self) -> EdgeProbabilities:
        """Probabilities of edges, with standard errors by batch means.

        Raises:
            ArgumentError: Fewer than 100 events.
        """
        batches = self._batches(_BATCHES)
        n = len(self.names)
        adjacency, directed = np.zeros((2, batches.shape[0], n, n))
        for low in range(0, len(self.graphs), _CHUNK):
            rows = slice(low, low + _CHUNK)
            part = _means(_unpacked(self.graphs[rows]), batches[:, rows])
            adjacency += part[0]
            directed += part[1]
        count = math.sqrt(len(adjacency))
        return EdgeProbabilities(
            self.names,
            adjacency.mean(0),
            directed.mean(0),
            adjacency.std(0, ddof=1) / count,
            directed.std(0, ddof=1) / count,
        )

    def evaluate(
        self, function: Callable[[EquivalenceClass], float]
    ) -> Float[np.ndarray, " events"]:
        """A function of the class in each row; equal rows in turn are computed once."""
        values = np.empty(len(self.graphs))
        known: dict[bytes, float] = {}
        for row, graph in enumerate(self.graphs):
            key = graph.tobytes()
            if key not in known:
                found = EquivalenceClass.from_packed(key, len(self.names))
                known[key] = float(function(found))
            values[row] = known[key]
        return values

    def effective_sample_size(self, values: Float[np.ndarray, " events"]) -> float:
        r"""Independent draws that would give the mean of `values` as precisely.

        $\mathrm{var}_\pi(f) / \mathrm{var}(\bar f)$, the latter from the means of
        batches of equal time: at first as many as the square root of the number of
        events, then half as many until each holds five effective draws. Use it on a
        sample without its start (`after`).

        Args:
            values: One number for each row, for example `sample.n_edges`.

        Returns:
            The size; infinite where all batches have one mean.

        Raises:
            ArgumentError: Not one finite number for each row, values that never
                change, or a sample too short for twelve such batches.
        """
        values = np.asarray(values, dtype=float)
        if values.shape != self.log_holding.shape or not np.isfinite(values).all():
            message = (
                f"values must be {len(self.log_holding)} finite numbers, one for each "
                f"row, but have shape {values.shape}"
            )
            raise ArgumentError(message)
        weights = self.weights
        variance = float(weights @ (values - weights @ values) ** 2)
        if not variance:
            message = "values never change over the sample: no size can be estimated"
            raise ArgumentError(message)
        count = math.isqrt(len(values))
        while count >= _FEWEST_BATCHES:
            means = self._batches(count) @ values
            spread = float(means.var(ddof=1))
            size = variance * count / spread if spread else math.inf
            if size >= _DRAWS_PER_BATCH * count:
                return size
            count //= 2
        message = (
            f"the sample is too short: {self.n_moves} moves hold fewer than "
            f"{_DRAWS_PER_BATCH * _FEWEST_BATCHES} effective draws; run longer"
        )
        raise ArgumentError(message)

    def moves_per_independent_sample(
        self, values: Float[np.ndarray, " events"] | None = None
    ) -> float:
        """Moves for each effective draw of `values`, by default the number of edges."""
        values = self.n_edges if values is None else values
        return self.n_moves / self.effective_sample_size(values)

    def _batches(self, count: int) -> Any:
        """Sparse (batches, rows): weights within batches of equal time."""
        from scipy.sparse import csr_array

        events = len(self.log_holding)
        if events < _FEWEST_EVENTS:
            message = (
                f"a standard error needs at least {_FEWEST_EVENTS} events, but the "
                f"sample has {events}; run longer"
            )
            raise ArgumentError(message)
        ends = self.weights.cumsum()
        ends[-1] = 1.0
        cuts = np.union1d(ends, np.arange(1, count + 1) / count)
        middle = (cuts + np.concatenate([[0.0], cuts[:-1]])) / 2
        lengths = np.diff(cuts, prepend=0.0)
        rows = np.minimum((middle * count).astype(int), count - 1)
        columns = np.minimum(np.searchsorted(ends, middle), events - 1)
        return csr_array((lengths * count, (rows, columns)), shape=(count, events))


def packed_array(
    classes: tuple[EquivalenceClass, ...] | list[EquivalenceClass], n_nodes: int
) -> UInt8[np.ndarray, "classes n bytes"]:
    """`packed` of every class in one array."""
    width = (n_nodes + 7) // 8
    joined = b"".join(graph.packed() for graph in classes)
    return np.frombuffer(joined, np.uint8).reshape(-1, n_nodes, width)


def _unpacked(graphs: np.ndarray) -> np.ndarray:
    """Entry [row, j, i]: an edge from i to j."""
    n = graphs.shape[1]
    return np.unpackbits(graphs, axis=2, count=n, bitorder="little").astype(bool)


def _means(into: np.ndarray, weights: Any) -> tuple[np.ndarray, np.ndarray]:
    """Weighted adjacency and directed edges, for every row of the weights."""
    rows, n, _ = into.shape
    out = into.transpose(0, 2, 1)
    both = [(into | out), (out & ~into)]
    sums = [weights @ part.reshape(rows, -1).astype(float) for part in both]
    return sums[0].reshape(-1, n, n), sums[1].reshape(-1, n, n)
