"""Restarted GMRES: the correction of least residual in a Krylov subspace."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from attnchain.markov.linear import Equations

RESTART = 80
"""Basis vectors kept: few heads of a vision transformer need more."""


def minimise(
    equations: "Equations", *, target: float, max_iterations: int
) -> tuple[Tensor, int]:
    r"""Solves D x = b + alpha B x from x = 0 by GMRES, preconditioned by D.

    The residual's 2-norm is what is minimised; it stops where that norm guarantees
    the target, $\|r\|_1 \le \sqrt n \|r\|_2$, or a whole cycle gained nothing.

    Args:
        equations: What to solve.
        target: L1 norm of the residual to reach.
        max_iterations: Products to spend at most.

    Returns:
        The solution reached and the number of products taken. The caller measures
        the residual of what it got.

    Sources:
        Saad and Schultz, GMRES, SIAM J. Sci. Stat. Comput. 1986.
    """
    goal = target / math.sqrt(equations.right.numel())
    residual, x, taken = equations.right, torch.zeros_like(equations.right), 0
    before = math.inf
    while True:
        norm = float(residual.norm())
        if norm <= goal or norm >= 0.9 * before or taken >= max_iterations:
            return x, taken
        before = norm
        cycle = _Cycle(equations, residual, norm)
        x = x + cycle.run(goal, min(RESTART, max_iterations - taken))
        taken += cycle.size
        if cycle.estimate <= goal or taken >= max_iterations:
            return x, taken
        residual = equations.residual(x)
        taken += 1


class _Cycle:
    """One Krylov subspace, its Hessenberg matrix kept triangular by rotations."""

    def __init__(self, equations: "Equations", residual: Tensor, norm: float) -> None:
        self.equations = equations
        self.first = residual / norm
        self.columns: list[list[float]] = []
        self.rotations: list[tuple[float, float]] = []
        self.rotated = [norm]

    @property
    def size(self) -> int:
        """Dimension of the subspace: products taken."""
        return len(self.columns)

    @property
    def estimate(self) -> float:
        """2-norm of the residual, by the recurrence."""
        return abs(self.rotated[-1])

    def run(self, goal: float, size: int) -> Tensor:
        """Extends the subspace until the goal or the size is met; the correction."""
        basis = self.first.new_empty(size + 1, len(self.first))
        basis[0] = self.first
        while self.size < size and self.estimate > goal:
            self._rotate(self._extended(basis))
        triangle = torch.zeros(self.size, self.size, dtype=torch.float64)
        for j, column in enumerate(self.columns):
            triangle[: j + 1, j] = torch.tensor(column, dtype=torch.float64)
        right = torch.tensor(self.rotated[: self.size], dtype=torch.float64)
        weights = torch.linalg.solve_triangular(triangle, right[:, None], upper=True)
        return weights[:, 0].to(basis) @ basis[: self.size] / self.equations.diagonal

    def _extended(self, basis: Tensor) -> list[float]:
        """One more product, orthogonalised twice: a column of the Hessenberg matrix."""
        j = self.size
        known = basis[: j + 1]
        image = basis[j] - self.equations.mapped(basis[j] / self.equations.diagonal)
        first = known @ image
        image -= first @ known
        second = known @ image
        image -= second @ known
        norm = image.norm()
        torch.div(image, norm, out=basis[j + 1])
        return torch.cat([first + second, norm[None]]).tolist()

    def _rotate(self, column: list[float]) -> None:
        """Makes the new column triangular by one more Givens rotation."""
        *entries, below = column
        for i, (cosine, sine) in enumerate(self.rotations):
            upper, lower = entries[i], entries[i + 1]
            entries[i] = cosine * upper + sine * lower
            entries[i + 1] = cosine * lower - sine * upper
        length = math.hypot(entries[-1], below)
        cosine, sine = entries[-1] / length, below / length
        entries[-1] = length
        last = self.rotated[-1]
        self.rotated[-1:] = [cosine * last, -sine * last]
        self.rotations.append((cosine, sine))
        self.columns.append(entries)
