"""The equations of damped chains, with what bounds the error of their solution."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from attnchain.errors import NotStochasticError, ToleranceError
from attnchain.markov.equations import Equations
from attnchain.markov.gmres import minimise
from attnchain.markov.linear import working_chain
from attnchain.operators import AttentionTransition, Damped, stored


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
    known, rounding = isinstance(base, AttentionTransition), base.row_error
    heaviest = 1 + rounding if known else float(exact.pull(ones).max())
    contraction = chain.damping * heaviest
    if contraction >= 1:
        message = (
            f"rows sum to as much as {heaviest:.6g}, so damping {chain.damping} does "
            "not contract; pass the matrix through normalize_rows"
        )
        raise NotStochasticError(message)
    jump = chain.to(torch.float64).jump
    right = (1 - chain.damping) * jump
    equations = Equations(exact, "push", chain.damping, right, ones)
    return equations, Certificate(1 / (1 - contraction), rounding, ones, jump)


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
    rough = adjoint.correcting(column_sums, working_chain(exact))
    rough_solution = minimise(rough, target=1e-3 * n, max_iterations=1_000)
    z = rough_solution.x.double().clamp_min(0)
    deficit = float((adjoint.residual(z) / column_sums).max().clamp_min(0))
    factor = float(z.max()) / (1 - deficit) if deficit < 1 else math.inf
    equations = Equations(exact, "pull", damping, (1 - damping) * ones, column_sums)
    # Relative errors of P act on P x and on c x, and both have the mass of c x.
    return equations, Certificate(factor, 2 * base.row_error, jump, ones)
