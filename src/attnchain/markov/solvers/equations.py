r"""The linear equations behind every stationary distribution.

Both TokenRanks solve $D x = b + \alpha B x$ with B one product with P, for one chain:

* incoming, x = pi: D = 1, B = push, $b = (1 - \alpha) v$. M = D - alpha B has the
  inverse of L1 norm 1 / (1 - alpha).
* outgoing (damp, then column-normalise), x = pi / c with c the damped column sums:
  D = c, B = pull, b = 1 - alpha. $\mathbf 1^\top M = (1 - \alpha) n v^\top$, so
  $\sum_j v_j |\Delta x_j| \le \|M \Delta x\|_1 / ((1 - \alpha) n)$. Damping is not the
  contraction factor of this chain; the weighted bound holds all the same.

Undamped, x = pi / D with the row sums D of P (1 but for rounding): the residual is
that of the row-normalised chain. Those equations are singular, so a rank-one part is
taken off: $D x = u + B x - u (D x)\mathbf 1$ with a distribution u has the solution of
mass 1 alone, and keeps the mass of every iterate that has it.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attnchain.operators import AbstractTransition, Side


@dataclass(frozen=True)
class Equations:
    """D x = b + alpha B x for one single chain P, B less a rank-one part.

    Attributes:
        chain: P.
        side: B: "push" (incoming) or "pull" (outgoing).
        damping: alpha.
        right: b, (n,).
        diagonal: D, (n,).
        rank_one: Column c and row r: c (r x) is taken off every product.
    """

    chain: AbstractTransition
    side: Side
    damping: float
    right: Tensor
    diagonal: Tensor
    rank_one: tuple[Tensor, Tensor] | None = None

    def product(self, x: Tensor) -> Tensor:
        """The product B x."""
        image = self.chain.multiply(x, self.side)
        if self.rank_one is None:
            return image
        column, row = self.rank_one
        return image - column * (row @ x)

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
        dtype, part = chain.dtype, self.rank_one
        return replace(
            self,
            chain=chain,
            right=residual.to(dtype),
            diagonal=self.diagonal.to(dtype),
            rank_one=None if part is None else (part[0].to(dtype), part[1].to(dtype)),
        )

    def matrix(self) -> Tensor:
        """M = D - alpha B as an (n, n) matrix acting on columns."""
        stored = self.chain.to_dense()
        product = stored.mT if self.side == "push" else stored
        if self.rank_one is not None:
            product = product - torch.outer(*self.rank_one)
        return torch.diag(self.diagonal) - self.damping * product
