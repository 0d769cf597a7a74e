"""The resolvent of attention: where a walk of random length ends."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.checks import check_fraction, check_positive
from attnchain.errors import ArgumentError
from attnchain.markov import Start, starting_distribution
from attnchain.operators import AbstractTransition


@dataclass(frozen=True, eq=False)
class Resolvent:
    """Where a walk of random length ends, and what was left out.

    Attributes:
        distribution: `(*batch, n)`; sums to 1 - `left_out`.
        terms: Bounces taken into account.
        left_out: Probability of longer walks: the exact L1 size of what is missing.
    """

    distribution: Float[Tensor, "*batch n"]
    terms: int
    left_out: float


def resolvent(
    transition: AbstractTransition,
    start: Start,
    *,
    following: float,
    tolerance: float = 1e-6,
) -> Resolvent:
    r"""Walks that follow attention once more with probability gamma after each bounce.

    $v\,(1 - \gamma) P (I - \gamma P)^{-1} = (1 - \gamma) \sum_{k \ge 1} \gamma^{k - 1}
    v P^k$: all numbers of bounces at once, with geometric weights. The sum is cut
    after m bounces; since every $v P^k$ is a distribution, exactly $\gamma^m$ of the
    probability is left out.

    Args:
        transition: One chain or a batch.
        start: As for `propagate`.
        following: gamma in [0, 1); 0 is a single bounce.
        tolerance: Largest probability left out.

    Returns:
        `Resolvent`.

    Raises:
        ArgumentError: gamma or the tolerance is out of range, or the start is.
        NotStochasticError: The start is no distribution.

    Cost:
        $\lceil \ln \text{tolerance} / \ln \gamma \rceil$ products, O(n d) memory.

    Sources:
        ChaCAL, arXiv 2605.22476, for the resolvent as attention; the geometric series
        is Neumann's.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> swap = as_transition(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        >>> found = resolvent(swap, 0, following=0.5, tolerance=1e-6)
        >>> found.distribution
        tensor([0.3333, 0.6667])
        >>> found.terms, found.left_out < 1e-6
        (20, True)
    """
    check_fraction(following, "following", zero=True)
    check_positive(tolerance, "tolerance")
    if following == 1:
        message = "following must be in [0, 1), but is 1: such a walk never ends"
        raise ArgumentError(message)
    terms = 1
    if following > 0:
        terms = max(1, math.ceil(math.log(min(tolerance, 1)) / math.log(following)))
    walker = starting_distribution(transition, start)
    total, weight = torch.zeros_like(walker), 1 - following
    for _ in range(terms):
        walker = transition.push(walker)
        total = total + weight * walker
        weight *= following
    return Resolvent(total, terms, following**terms)
