"""Equations of stationary distributions, with what bounds the error of a solution."""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from attnchain.errors import ToleranceError
from attnchain.markov.solvers.equations import Equations
from attnchain.markov.solvers.linear import Refined, refine
from attnchain.operators import AbstractTransition, Damped, stored

_ADJOINT_ITERATIONS = 1_000


@dataclass(frozen=True)
class Certificate:
    """Bounds the L1 error of the distribution D x / sum(D x) by x's residual.

    Attributes:
        factor: From the residual's L1 norm to the L1 error of D x.
        row_error: Relative rounding error of the entries of P, times its uses.
        drawn: Weights u with u x = 1 at the solution.
        start: A first x, with u x = 1.
    """

    factor: float
    row_error: float
    drawn: Tensor
    start: Tensor

    def bound(self, equations: Equations, x: Tensor, residual: float) -> float:
        """The bound; a zero residual gives the floor that rounding leaves."""
        mass = float((equations.diagonal * x).sum())
        return 2 * self.factor * (residual / mass + self.row_error)

    def allowed(self, equations: Equations, x: Tensor, tolerance: float) -> float:
        """L1 norm of the residual that keeps the bound within the tolerance."""
        floor = self.bound(equations, x, 0.0)
        check_floor(floor, tolerance)
        mass = float((equations.diagonal * x).sum())
        return (tolerance - floor) * mass / (2 * self.factor)

    def change(self, equations: Equations, x: Tensor, residual: Tensor) -> float:
        """L1 change of the distribution D x / sum(D x) under one more bounce."""
        jumped = equations.right * ((self.drawn * x).sum() - 1)
        mass = (equations.diagonal * x).sum()
        return float((residual + jumped).abs().sum() / mass)


def check_floor(floor: float, tolerance: float) -> None:
    """Raises ToleranceError where rounding alone exceeds the tolerance."""
    if floor > tolerance:
        message = (
            f"float64 arithmetic certifies at best an error of {floor:.1g} for this "
            f"chain, but the tolerance is {tolerance:.1g}; raise it or lower damping"
        )
        raise ToleranceError(message)


def incoming(chain: Damped) -> tuple[Equations, Certificate]:
    """Equations x = alpha x P + (1 - alpha) v and their certificate."""
    base = chain.base.to(torch.float64)
    exact = stored(base)
    ones = torch.ones(exact.n_states, dtype=torch.float64, device=exact.device)
    # The rows of every chain are divided by their sums: they are one to rounding.
    rounding = base.row_error
    contraction = chain.damping * (1 + rounding)
    factor = 1 / (1 - contraction) if contraction < 1 else math.inf
    jump = chain.to(torch.float64).jump
    right = (1 - chain.damping) * jump
    equations = Equations(exact, "push", chain.damping, right, ones)
    return equations, Certificate(factor, rounding, ones, jump)


def outgoing(chain: Damped) -> tuple[Equations, Certificate]:
    r"""Likewise (diag(c) - alpha P) x = 1 - alpha; the distribution is c x.

    M = diag(c) - alpha P is an M-matrix. With z >= 0 and $M^\top z \ge c$,
    $\sum_j c_j |\Delta x_j| \le \max_j z_j \, \|M \Delta x\|_1$; such a z is found by
    solving $M^\top z = c$ roughly and scaling it up by its worst deficit.
    """
    base = chain.base.to(torch.float64)
    exact = stored(base)
    n, damping = exact.n_states, chain.damping
    ones = torch.ones(n, dtype=torch.float64, device=exact.device)
    jump = chain.to(torch.float64).jump
    column_sums = damping * exact.push(ones) + (1 - damping) * n * jump
    adjoint = Equations(exact, "push", damping, column_sums, column_sums)
    z, _ = _dominating(adjoint, base.row_error)
    equations = Equations(exact, "pull", damping, (1 - damping) * ones, column_sums)
    # Relative errors of P act on P x and on c x, and both have the mass of c x.
    return equations, Certificate(float(z.max()), 2 * base.row_error, jump, ones)


def undamped(chain: AbstractTransition) -> Equations:
    """Equations of pi = pi P with rows divided by their sums, for a chain in float64.

    Their rank-one part draws from the uniform distribution.
    """
    exact, n = stored(chain), chain.n_states
    ones = torch.ones(n, dtype=torch.float64, device=chain.device)
    row_sums = exact.pull(ones)
    return Equations(exact, "push", 1.0, ones / n, row_sums, (ones / n, row_sums))


@dataclass(frozen=True)
class HittingTimes:
    r"""Bounds the L1 error of an undamped distribution by its change in one bounce.

    With the change e of a distribution x, K the chain without its steps into a state
    r, and times $h \ge (1 - K)^{-1} \mathbf 1$, the expected number of bounces until r,
    $\|x - \pi\|_1 \le 2 \sum_{i \ne r} |e_i| h_i$: x less the multiple of pi that
    has its mass at r solves the equations of $1 - K$, an M-matrix. Rounding is a
    change of x too.

    Attributes:
        times: h, 0 at r; infinite where none were found.
        row_error: Relative rounding error of the entries of P and of products.
        products: What it took.
    """

    times: Tensor
    row_error: float
    products: int

    @classmethod
    def prepare(cls, equations: Equations, x: Tensor, row_error: float) -> Self:
        """The times until the heaviest state of a solution x."""
        heaviest = torch.zeros_like(x)
        heaviest[int((equations.diagonal * x).argmax())] = 1
        into = equations.chain.pull(heaviest)
        sums = equations.diagonal
        adjoint = Equations(
            equations.chain, "pull", 1.0, sums, sums, rank_one=(into, heaviest)
        )
        z, found = _dominating(adjoint, row_error)
        times = z.masked_fill(heaviest > 0, 0.0)
        return cls(times, row_error, found.products + 1)

    def bound(self, equations: Equations, x: Tensor) -> tuple[float, float]:
        """The bound of D x / sum(D x), and the change of it in one bounce (L1)."""
        measured, floor, change = self._parts(equations, x)
        return measured + floor, change

    def allowed(
        self, equations: Equations, x: Tensor, residual: Tensor, tolerance: float
    ) -> float:
        """L1 norm of the residual that keeps the bound within the tolerance."""
        measured, floor, _ = self._parts(equations, x)
        norm = float(residual.abs().sum())
        return norm * (tolerance - floor) / measured if measured > 0 else norm

    def _parts(self, equations: Equations, x: Tensor) -> tuple[float, float, float]:
        """What is measured of the bound, what rounding adds to it, and the change."""
        # One more product, since the rank-one part would round rare states away.
        after, before = equations.chain.push(x), equations.diagonal * x
        mass = float(before.sum())
        change = (after - before).abs() / mass
        if float(self.times.max()) == math.inf:
            return math.inf, math.inf, float(change.sum())
        rounded = 4 * self.row_error * (after + before) / mass
        measured, floor = 2 * float(change @ self.times), float(rounded @ self.times)
        return measured, floor, float(change.sum())


def _dominating(adjoint: Equations, row_error: float) -> tuple[Tensor, Refined]:
    """A vector of at least the solution of D z = D + alpha B z, for B >= 0.

    Found roughly and scaled up by its worst deficit, rounding included; infinite
    where it is not known to within a factor.
    """
    right = adjoint.right
    target = 1e-3 * float(right.sum())
    found = refine(
        adjoint,
        torch.ones_like(right),
        lambda _x, _r: target,
        max_iterations=_ADJOINT_ITERATIONS,
    )
    deficit = float((found.residual / right).max().clamp_min(0))
    deficit += 2 * row_error * float(found.x.max())
    z = found.x / (1 - deficit) if deficit < 1 else torch.full_like(right, math.inf)
    return z, found
