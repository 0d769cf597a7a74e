"""What was asked of one chain, its answer, and the answers of a batch as one result."""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from attnchain.markov.results import Outcome, Stationary
from attnchain.markov.solvers.linear import Refined, SolverName
from attnchain.operators import AbstractTransition


@dataclass(frozen=True)
class Options:
    """What was asked of one chain."""

    tolerance: float
    solver: SolverName
    max_iterations: int
    start: Tensor | None


@dataclass(frozen=True)
class Solved:
    """One chain's answer; only `judged` makes one."""

    distribution: Tensor
    bound: float
    residual: float
    iterations: int
    products: int
    outcome: Outcome

    @classmethod
    def judged(
        cls, found: Refined, weights: Tensor, bound: float, change: float, limit: float
    ) -> Self:
        """Converged if, and only if, the weights are a distribution and certified."""
        distribution = weights / weights.sum()
        sums_to_one = abs(float(distribution.sum()) - 1) <= 1e-9
        proper = sums_to_one and float(distribution.min()) >= 0
        bound = bound if proper and bound >= 0 else math.inf
        missed = Outcome.STALLED if found.ended is Outcome.CONVERGED else found.ended
        outcome = Outcome.CONVERGED if bound <= limit else missed
        return cls(
            distribution, bound, change, found.iterations, found.products, outcome
        )


def collected(solved: list[Solved], transition: AbstractTransition) -> Stationary:
    """The answers of single chains as one result of their batch."""
    batch, device = transition.batch_shape, solved[0].distribution.device

    def field(values: list[float] | list[int]) -> Tensor:
        dtype = torch.int64 if isinstance(values[0], int) else torch.float64
        return torch.tensor(values, dtype=dtype, device=device).view(batch)

    order = list(Outcome)
    return Stationary(
        distribution=transition.together([s.distribution for s in solved]),
        error_bound=field([s.bound for s in solved]),
        residual=field([s.residual for s in solved]),
        iterations=field([s.iterations for s in solved]),
        products=field([s.products for s in solved]),
        outcome=max((s.outcome for s in solved), key=order.index),
    )
