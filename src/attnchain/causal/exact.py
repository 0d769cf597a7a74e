"""All classes on up to five nodes, and the processes over them as matrices."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from attnchain.causal.equivalence import EquivalenceClass
from attnchain.causal.moves import DELETE, INSERT, list_moves, moved
from attnchain.causal.posteriors import ClassPosterior
from attnchain.causal.process import PROCESSES, Process
from attnchain.causal.rates import BALANCES, Balance, Rates, log_balance
from attnchain.causal.sampler import check_choice
from attnchain.causal.scores import Score, total_score
from attnchain.causal.transition import SparseTransition
from attnchain.checks import check_count
from attnchain.errors import ArgumentError, ConvergenceError
from attnchain.markov import spectrum

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_MOST_NODES = 5
_MODES = 4


def enumerate_classes(n_nodes: int) -> tuple[EquivalenceClass, ...]:
    """Every class on 1 to 5 nodes: 1, 2, 11, 185 or 8,782 of them, by insertions.

    Raises:
        ArgumentError: More nodes (six have 1,067,825 classes), or none.

    Example:
        >>> len(enumerate_classes(3))
        11
    """
    meaning = "six nodes have 1,067,825 classes: sample them"
    check_count(n_nodes, "n_nodes", low=1, high=_MOST_NODES, meaning=meaning)
    start = EquivalenceClass.empty(n_nodes)
    found = {start: None}
    todo = [start]
    while todo:
        graph = todo.pop()
        for move in list_moves(graph, INSERT):
            reached = moved(graph, move)
            if reached not in found:
                found[reached] = None
                todo.append(reached)
    return tuple(sorted(found, key=lambda graph: (graph.n_edges, graph.packed())))


def exact_posterior(score: Score) -> ClassPosterior:
    """The target itself, by enumeration, on up to five nodes.

    Raises:
        ArgumentError: More nodes.
    """
    classes = enumerate_classes(len(score.names))
    probabilities = _probabilities(score, classes)
    order = np.argsort(-probabilities, kind="stable")
    ranked = tuple(classes[i] for i in order)
    return ClassPosterior(tuple(score.names), ranked, probabilities[order])


@dataclass(frozen=True, eq=False)
class ClassChain:
    """A process over all classes, as a matrix of rates.

    Attributes:
        classes: The class of each state.
        directions: The direction of each state of a zig-zag; zero where reversible.
        stationary: The stationary law the process is made for.
        generator: Rates Q[a, b] from state a to b, rows summing to zero.
        move_rate: Moves in a unit of time when stationary; turns are not counted.
    """

    classes: tuple[EquivalenceClass, ...]
    directions: Int[np.ndarray, " states"]
    stationary: Float[np.ndarray, " states"]
    generator: "csr_array"
    move_rate: float

    @property
    def moves_per_bounce(self) -> float:
        """Moves of the process in one bounce of `transition`."""
        return self.move_rate / self._clock

    def transition(self) -> SparseTransition:
        r"""The process as one of our chains, $I + Q / \Lambda$.

        $\Lambda$ is twice the largest rate out of a state, so that the slowest modes
        are also those of largest modulus.
        """
        return SparseTransition.uniformized(self.generator, self._clock)

    def gap_per_move(self) -> float:
        """Spectral gap of the rates for each move, by `markov.spectrum`.

        The smallest decay rate among the leading modes, over `move_rate`.
        """
        k = min(_MODES, len(self.classes))
        modes = spectrum(self.transition(), k, tolerance=1e-8).eigenvalues[1:]
        return (1 - float(modes.real.max())) / self.moves_per_bounce

    def moves_per_independent_sample(
        self, values: Float[np.ndarray, " states"]
    ) -> float:
        r"""Exact counterpart of `ClassSample.moves_per_independent_sample`.

        With $Q h = -(f - \bar f)$ the variance of a mean over time T tends to
        $2 \pi (f - \bar f) h / T$, less $\pi (f - \bar f)^2 / q$ since expected
        holding times are used, q being the rate out of a state.
        """
        from scipy.sparse.linalg import gmres

        centred = np.asarray(values, dtype=float)
        centred = centred - float(self.stationary @ centred)
        solution, failed = gmres(self.generator, -centred, rtol=1e-10, restart=200)
        if failed:
            raise ConvergenceError("the equation of the variance was not solved")
        spread = self.stationary * centred
        drawn = 2 * spread @ solution
        leaving = -np.asarray(self.generator.diagonal(), dtype=float)
        saved = spread @ (centred / leaving)
        return self.move_rate * float(drawn - saved) / float(spread @ centred)

    @property
    def _clock(self) -> float:
        return 2 * float(-self.generator.diagonal().min())


def class_chain(
    score: Score, *, process: Process = "zigzag", balance: Balance = "metropolis"
) -> ClassChain:
    """The process `ClassSampler` follows, over all classes on two to five nodes.

    Args:
        score: The target.
        process: "zigzag" or "reversible".
        balance: g of the rates.

    Raises:
        ArgumentError: More nodes, one node, an unknown process or balance.

    Example:
        >>> from attnchain.causal import UniformScore
        >>> chain = class_chain(UniformScore(3), process="reversible")
        >>> round(chain.gap_per_move(), 4)
        0.5542
    """
    check_choice(process, "process", PROCESSES)
    check_choice(balance, "balance", BALANCES)
    classes = enumerate_classes(len(score.names))
    if len(classes) == 1:
        raise ArgumentError("one node has one class and no moves; give at least two")
    up = _rate_matrix(score, classes, INSERT, balance)
    down = _rate_matrix(score, classes, DELETE, balance)
    law = _probabilities(score, classes)
    if process == "reversible":
        directions = np.zeros(len(classes), dtype=int)
        move_rate = float(law @ (up + down).sum(1))
        return ClassChain(classes, directions, law, _closed(up + down), move_rate)
    directions = np.repeat([INSERT, DELETE], len(classes))
    twice = np.concatenate([law, law]) / 2
    move_rate = float(twice @ np.concatenate([up.sum(1), down.sum(1)]))
    return ClassChain(classes * 2, directions, twice, _zigzag(up, down), move_rate)


def _zigzag(up: "csr_array", down: "csr_array") -> "csr_array":
    """Upward states first; turns at the rate the other way exceeds this way by."""
    from scipy.sparse import block_array, diags_array

    excess = up.sum(1) - down.sum(1)
    to_down = diags_array(np.maximum(-excess, 0))
    to_up = diags_array(np.maximum(excess, 0))
    return _closed(block_array([[up, to_down], [to_up, down]]))


def _closed(rates: Any) -> "csr_array":
    """Rates with the diagonal that makes rows sum to zero."""
    from scipy.sparse import csr_array, diags_array

    return csr_array(rates - diags_array(rates.sum(1)))


def _rate_matrix(
    score: Score, classes: tuple[EquivalenceClass, ...], kind: int, balance: Balance
) -> "csr_array":
    from scipy.sparse import csr_array

    place = {graph: i for i, graph in enumerate(classes)}
    rates = Rates(score, balance)
    rows, columns, ratios = [], [], []
    for row, graph in enumerate(classes):
        for move in list_moves(graph, kind):
            rows.append(row)
            columns.append(place[moved(graph, move)])
            ratios.append(rates.log_ratio(graph, move))
    values = np.exp(log_balance(np.array(ratios), balance))
    return csr_array((values, (rows, columns)), shape=(len(classes), len(classes)))


def _probabilities(score: Score, classes: tuple[EquivalenceClass, ...]) -> np.ndarray:
    logs = np.array([total_score(score, graph) for graph in classes])
    weights = np.exp(logs - logs.max())
    return weights / weights.sum()
