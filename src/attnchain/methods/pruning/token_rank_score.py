"""TokenRank of one layer's mean head."""

from jaxtyping import Float
from torch import Tensor

from attnchain.checks import check_choice, check_fraction
from attnchain.markov import Direction
from attnchain.methods.pruning.token_scores import AbstractTokenScore, LayerReading
from attnchain.operators import DenseTransition
from attnchain.ranking import token_rank

TOLERANCE = 1e-4
"""Largest certified L1 error of ranks that are only sorted."""


class TokenRankScore(AbstractTokenScore):
    """Where attention arrives in the long run, or where it comes from.

    Args:
        direction: "incoming" or "outgoing".
        damping: Probability of following attention, in (0, 1].

    Raises:
        ArgumentError: Another direction, or damping outside (0, 1].

    Sources:
        Erel et al., arXiv 2507.17657; `attnchain.token_rank` has the equations.
    """

    def __init__(
        self, direction: Direction = "incoming", damping: float = 0.99
    ) -> None:
        check_choice(direction, ("incoming", "outgoing"), "direction")
        check_fraction(damping, "damping")
        self._direction: Direction = direction
        self._damping = damping

    def of(self, reading: LayerReading) -> Float[Tensor, "pictures n"]:
        chain = DenseTransition(reading.attention.mean(1))
        return token_rank(
            chain,
            direction=self._direction,
            damping=self._damping,
            tolerance=TOLERANCE,
        ).distribution
