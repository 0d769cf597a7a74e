"""Solves the equations of a stationary distribution: directly, or by corrections."""

# pyright: reportUnknownMemberType=false

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import Tensor

from attnchain.markov.results import Outcome
from attnchain.markov.solvers.anderson import WINDOW, accelerate
from attnchain.markov.solvers.equations import Equations
from attnchain.markov.solvers.gmres import Cycle, minimise
from attnchain.operators import AbstractTransition, DenseTransition

SolverName = Literal["auto", "power", "anderson", "gmres", "direct"]

DIRECT_LIMIT = 256
"""Up to this many states a factorisation is cheaper than iterating."""
INVERSE_LIMIT = 1_500
"""Up to this many states an undamped chain is eliminated at once, else iterated."""
CACHED_LIMIT = 1_536
"""Up to this many states a stored float64 matrix is as fast as a float32 one."""


def working_chain(exact: AbstractTransition) -> AbstractTransition:
    """The chain to iterate with: in single precision where that is faster."""
    small = isinstance(exact, DenseTransition) and exact.n_states <= CACHED_LIMIT
    return exact if small else exact.to(torch.float32)


@dataclass(frozen=True, eq=False)
class Correction:
    """Solves for corrections over a fast chain, by factorisation or iteration.

    Attributes:
        chain: The chain to iterate with.
        solver: What was asked for.
        factors: Of a direct solve.
        cycle: The subspace of the last correction by GMRES.
    """

    chain: AbstractTransition
    solver: SolverName
    factors: tuple[Tensor, Tensor] | None = None
    cycle: Cycle | None = None

    @classmethod
    def prepare(
        cls, equations: Equations, chain: AbstractTransition, solver: SolverName
    ) -> "Correction":
        """Chooses by size and name; a direct solve is factorised here, once."""
        small = isinstance(chain, DenseTransition) and chain.n_states <= DIRECT_LIMIT
        if solver == "direct" or (solver == "auto" and small):
            system = equations.correcting(equations.right, chain).matrix()
            found = cast(
                "tuple[Tensor, Tensor, Tensor]", torch.linalg.lu_factor_ex(system)
            )
            return cls(chain, solver, found[:2])
        return cls(chain, solver)

    def solve(
        self, equations: Equations, residual: Tensor, target: float, budget: int
    ) -> tuple[Tensor, int, "Correction"]:
        """The correction for a residual, the iterations it took, and what solves on."""
        if self.factors is not None:
            right = residual.to(self.chain.dtype)[:, None]
            solved = cast("Tensor", torch.linalg.lu_solve(*self.factors, right))
            return solved[:, 0], 1, self
        inner = equations.correcting(residual, self.chain)
        # Single precision gains at most five digits in one round of refinement.
        digits = 1e-5 if self.chain.dtype == torch.float32 else 0.0
        goal = max(target / 2, digits * float(residual.abs().sum()))
        if self.solver in ("auto", "gmres"):
            found = minimise(
                inner, target=goal, max_iterations=budget, after=self.cycle
            )
            return found.x, found.products, replace(self, cycle=found.cycle)
        window = 0 if self.solver == "power" else WINDOW
        start = inner.right / inner.diagonal
        x, taken = accelerate(
            inner, start, target=goal, window=window, max_iterations=budget
        )
        return x, taken, self


@dataclass(frozen=True)
class Refined:
    """A solution of the equations, its residual, and what it took."""

    x: Tensor
    residual: Tensor
    iterations: int
    products: int
    ended: Outcome


def refine(
    equations: Equations,
    x: Tensor,
    goal: Callable[[Tensor, Tensor], float],
    *,
    solver: SolverName = "auto",
    max_iterations: int,
) -> Refined:
    """Refinement: residuals in float64, corrections over the working chain.

    Args:
        equations: What to solve, over the exact chain.
        x: A start, >= 0 and not zero.
        goal: L1 norm of the residual to reach, given a solution and its residual.
        solver: What finds the corrections.
        max_iterations: Iterations of that solver to spend at most.

    Returns:
        `Refined`; x is >= 0, finite and not zero, the best one seen where it stopped
        before the goal.
    """
    exact = equations.chain
    correction = Correction.prepare(equations, working_chain(exact), solver)
    residual, iterations, rounds = equations.residual(x), 0, 1
    best, least, last = (x, residual), math.inf, math.inf
    while True:
        norm, target = float(residual.abs().sum()), goal(x, residual)
        if norm <= target:
            best, ended = (x, residual), Outcome.CONVERGED
            break
        if norm < least:
            best, least = (x, residual), norm
        if iterations >= max_iterations:
            ended = Outcome.ITERATION_LIMIT
            break
        if not norm < last / 2:
            if correction.chain is exact:
                ended = Outcome.STALLED
                break
            correction = Correction.prepare(equations, exact, solver)
        last = min(norm, last)
        budget = max_iterations - iterations
        step, taken, correction = correction.solve(equations, residual, target, budget)
        x = _moved(x, step)
        residual = equations.residual(x)
        iterations, rounds = iterations + taken, rounds + 1
    return Refined(*best, iterations, iterations + rounds, ended)


def _moved(x: Tensor, step: Tensor) -> Tensor:
    """The next iterate, where the step leads to finite numbers that are not all 0."""
    moved = (x + step.double()).clamp_min(0)
    total = float(moved.sum())
    return moved if 0 < total < math.inf else x
