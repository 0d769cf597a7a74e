r"""The linear equations behind every stationary distribution, and their solvers.

Both TokenRanks solve $D x = b + \alpha B x$ with B one product with P, for one chain:

* incoming, x = pi: D = 1, B = push, $b = (1 - \alpha) v$. M = D - alpha B has the
  inverse of L1 norm 1 / (1 - alpha).
* outgoing (damp, then column-normalise), x = pi / c with c the damped column sums:
  D = c, B = pull, b = 1 - alpha. $\mathbf 1^\top M = (1 - \alpha) n v^\top$, so
  $\sum_j v_j |\Delta x_j| \le \|M \Delta x\|_1 / ((1 - \alpha) n)$. Damping is not the
  contraction factor of this chain; the weighted bound holds all the same.

An undamped chain is the case alpha = 1, b = 0 of the first, with the row sums of P
(1 but for rounding) as D: then the residual is that of the row-normalised chain.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from attnchain.operators import AbstractTransition, DenseTransition, Side

SolverName = Literal["auto", "power", "anderson", "direct"]

WINDOW = 5
"""Differences kept by Anderson acceleration."""
DIRECT_LIMIT = 256
"""Up to this many states a factorisation is cheaper than iterating."""
INVERSE_LIMIT = 1_500
"""Up to this many states an undamped chain is inverted, for its certificate."""
_PATIENCE = 30
"""Iterations without halving the residual before a solver gives up."""


@dataclass(frozen=True)
class Equations:
    """D x = b + alpha B x for one single chain P.

    Attributes:
        chain: P.
        side: B: "push" (incoming) or "pull" (outgoing).
        damping: alpha.
        right: b, (n,).
        diagonal: D, (n,).
    """

    chain: AbstractTransition
    side: Side
    damping: float
    right: Tensor
    diagonal: Tensor

    def mapped(self, x: Tensor) -> Tensor:
        """The product alpha B x."""
        product = self.chain.push if self.side == "push" else self.chain.pull
        return self.damping * product(x)

    def residual(self, x: Tensor) -> Tensor:
        """What is left of b + alpha B x - D x; zero at the solution."""
        return self.right + self.mapped(x) - self.diagonal * x

    def correcting(self, residual: Tensor, chain: AbstractTransition) -> "Equations":
        """The equations of the correction for a residual, over a faster chain."""
        dtype = chain.dtype
        return replace(
            self,
            chain=chain,
            right=residual.to(dtype),
            diagonal=self.diagonal.to(dtype),
        )

    def matrix(self) -> Tensor:
        """M = D - alpha B as an (n, n) matrix acting on columns."""
        stored = self.chain.to_dense()
        product = stored.mT if self.side == "push" else stored
        return torch.diag(self.diagonal) - self.damping * product


def accelerate(
    equations: Equations,
    x: Tensor,
    *,
    target: float,
    window: int,
    max_iterations: int,
) -> tuple[Tensor, int]:
    """Fixed-point iteration with Anderson acceleration; window 0 is the power method.

    Differences from the textbook: the step is plain when the residual more than
    doubled (the history is dropped), and the small least-squares problem is solved
    in float64 through its normal equations.

    Args:
        equations: What to solve.
        x: Start, (n,).
        target: L1 norm of the residual to reach.
        window: Number of differences kept.
        max_iterations: Products to spend at most.

    Returns:
        The last iterate and the number of products taken. The caller measures the
        residual of what it got.

    Sources:
        Walker and Ni, Anderson acceleration for fixed-point iterations, 2011.
    """
    steps: list[Tensor] = []
    images: list[Tensor] = []
    previous: tuple[Tensor, Tensor] | None = None
    best, since_best, last_norm = float("inf"), 0, float("inf")
    for iteration in range(1, max_iterations + 1):
        image = (equations.right + equations.mapped(x)) / equations.diagonal
        step = image - x
        norm = float((equations.diagonal * step).abs().sum(dtype=torch.float64))
        if norm <= target:
            return image, iteration
        best, since_best = (norm, 0) if norm < best / 2 else (best, since_best + 1)
        if window and since_best >= _PATIENCE:
            return image, iteration
        if previous is not None and window:
            steps = [*steps, step - previous[0]][-window:]
            images = [*images, image - previous[1]][-window:]
        if norm > 2 * last_norm:
            steps, images = [], []
        previous, last_norm = (step, image), norm
        x = _extrapolated(image, step, steps, images)
    return x, max_iterations


def _extrapolated(
    image: Tensor, step: Tensor, steps: list[Tensor], images: list[Tensor]
) -> Tensor:
    """The image minus the combination of differences that best cancels the step."""
    if not steps:
        return image
    differences = torch.stack(steps).double()
    gram = differences @ differences.T
    ridge = 1e-14 * gram.diagonal().max().clamp_min(torch.finfo(torch.float64).tiny)
    gram.diagonal().add_(ridge)
    weights, info = torch.linalg.solve_ex(gram, differences @ step.double())
    if int(info) != 0 or not bool(torch.isfinite(weights).all()):
        return image
    return image - weights.to(image.dtype) @ torch.stack(images)


@dataclass(frozen=True)
class Correction:
    """Solves for corrections over a fast chain, by factorisation or iteration."""

    chain: AbstractTransition
    window: int
    factors: tuple[Tensor, Tensor] | None

    @classmethod
    def prepare(
        cls, equations: Equations, chain: AbstractTransition, solver: SolverName
    ) -> "Correction":
        """Chooses by size and name; a direct solve is factorised here, once."""
        small = isinstance(chain, DenseTransition) and chain.n_states <= DIRECT_LIMIT
        if solver == "direct" or (solver == "auto" and small):
            system = equations.correcting(equations.right, chain).matrix()
            return cls(chain, 0, torch.linalg.lu_factor(system))
        return cls(chain, 0 if solver == "power" else WINDOW, None)

    def solve(
        self, equations: Equations, residual: Tensor, target: float, budget: int
    ) -> tuple[Tensor, int]:
        """The correction for a residual, and the iterations it took."""
        if self.factors is not None:
            right = residual.to(self.chain.dtype)[:, None]
            return torch.linalg.lu_solve(*self.factors, right)[:, 0], 1
        inner = equations.correcting(residual, self.chain)
        # Single precision gains at most five digits in one round of refinement.
        digits = 1e-5 if self.chain.dtype == torch.float32 else 0.0
        goal = max(target / 4, digits * float(residual.abs().sum()))
        start = inner.right / inner.diagonal
        return accelerate(
            inner, start, target=goal, window=self.window, max_iterations=budget
        )
