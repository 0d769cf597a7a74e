"""How fast a process leaves a class for each of its neighbours.

A move from class a to b has rate g(pi_b / pi_a) with g(t) = t g(1/t), so that
pi_a g(pi_b / pi_a) = pi_b g(pi_a / pi_b): detailed balance, move by move.
"""

import math
from functools import lru_cache
from typing import Literal

import numpy as np

from attnchain.causal.equivalence import EquivalenceClass
from attnchain.causal.moves import DELETE, INSERT, Move, MoveTable, list_moves
from attnchain.causal.scores import Score, UniformScore
from attnchain.errors import ArgumentError

Balance = Literal["metropolis", "sqrt", "barker"]
"""g(t): min(1, t), the square root of t, or t / (1 + t)."""
BALANCES = ("metropolis", "sqrt", "barker")
_CACHED = 1 << 18


def log_balance(log_ratio: np.ndarray, balance: Balance) -> np.ndarray:
    """The logarithm of g(t) for an array of ln t."""
    if balance == "metropolis":
        return np.minimum(log_ratio, 0.0)
    if balance == "sqrt":
        return log_ratio / 2
    return -np.logaddexp(0.0, -log_ratio)


class Outlook:
    """The moves of one kind out of a class: their total rate and a draw by rate.

    Attributes:
        log_rate: ln of the total rate; minus infinity where there is no move.
    """

    def __init__(self, moves: list[Move], log_rates: np.ndarray) -> None:
        self._moves = moves
        self.log_rate = -math.inf
        if moves:
            highest = float(log_rates.max())
            self._sums = np.exp(log_rates - highest).cumsum()
            self.log_rate = highest + math.log(self._sums[-1])

    def draw(self, generator: np.random.Generator) -> Move:
        """One move, with probability in proportion to its rate."""
        place = generator.random() * self._sums[-1]
        found = int(self._sums.searchsorted(place, side="right"))
        return self._moves[min(found, len(self._moves) - 1)]


class UniformOutlook(MoveTable):
    """The same where all classes weigh alike: moves are counted, never listed."""

    def __init__(self, graph: EquivalenceClass, kind: int, balance: Balance) -> None:
        super().__init__(graph, kind)
        log_rate = float(log_balance(np.zeros(()), balance))
        self.log_rate = log_rate + math.log(self.count) if self.count else -math.inf


class Rates:
    """The rates out of any class, for one target and one balance."""

    def __init__(self, score: Score, balance: Balance) -> None:
        self._uniform = isinstance(score, UniformScore)
        self._balance: Balance = balance
        self._local = lru_cache(maxsize=_CACHED)(score.local)

    def outlooks(
        self, graph: EquivalenceClass
    ) -> tuple[Outlook | UniformOutlook, Outlook | UniformOutlook]:
        """Insertions and deletions out of a class."""
        if self._uniform:
            up = UniformOutlook(graph, INSERT, self._balance)
            return up, UniformOutlook(graph, DELETE, self._balance)
        return self._listed(graph, INSERT), self._listed(graph, DELETE)

    def _listed(self, graph: EquivalenceClass, kind: int) -> Outlook:
        moves = list(list_moves(graph, kind))
        ratios = np.array([self.log_ratio(graph, move) for move in moves])
        if not np.isfinite(ratios).all():
            worst = moves[int(np.flatnonzero(~np.isfinite(ratios))[0])]
            message = (
                f"the score of {worst} out of {graph!r} is not a finite number; "
                "score.local must be finite for every node and set of parents"
            )
            raise ArgumentError(message)
        return Outlook(moves, log_balance(ratios, self._balance))

    def log_ratio(self, graph: EquivalenceClass, move: Move) -> float:
        """Log weight of the class a move leads to, less that of this class."""
        kind, x, y, subset = move
        shared = graph.neighbors[y] & graph.adjacent[x]
        kept = shared | subset if kind == INSERT else shared & ~subset
        without = (graph.parents[y] | kept) & ~(1 << x)
        return kind * (self._local(y, without | 1 << x) - self._local(y, without))
