r"""The linear equations behind every stationary distribution.

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

from attnchain.markov.anderson import WINDOW, accelerate
from attnchain.markov.gmres import Cycle, minimise
from attnchain.operators import AbstractTransition, DenseTransition, Side

SolverName = Literal["auto", "power", "anderson", "gmres", "direct"]

DIRECT_LIMIT = 256
"""Up to this many states a factorisation is cheaper than iterating."""
INVERSE_LIMIT = 1_500
"""Up to this many states an undamped chain is inverted, for its certificate."""
CACHED_LIMIT = 1_536
"""Up to this many states a stored float64 matrix is as fast as a float32 one."""


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

    def product(self, x: Tensor) -> Tensor:
        """The product B x."""
        return self.chain.push(x) if self.side == "push" else self.chain.pull(x)

    def mapped(self, x: Tensor) -> Tensor:
        """The product alpha B x."""
        return self.damping * self.product(x)

    def preconditioned(self, y: Tensor) -> Tensor:
        """The operator of the equations in y = D x: y - alpha B D^-1 y."""
        return torch.sub(y, self.product(y / self.diagonal), alpha=self.damping)

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
            return cls(chain, solver, torch.linalg.lu_factor(system))
        return cls(chain, solver)

    def solve(
        self, equations: Equations, residual: Tensor, target: float, budget: int
    ) -> tuple[Tensor, int, "Correction"]:
        """The correction for a residual, the iterations it took, and what solves on."""
        if self.factors is not None:
            right = residual.to(self.chain.dtype)[:, None]
            return torch.linalg.lu_solve(*self.factors, right)[:, 0], 1, self
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
