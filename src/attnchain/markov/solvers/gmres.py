"""Restarted GMRES: the correction of least residual in a Krylov subspace."""

# pyright: reportUnknownMemberType=false

import math
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from attnchain.markov.solvers.equations import Equations

RESTART = 80
"""Basis vectors kept: few heads of a vision transformer need more."""


@dataclass(frozen=True, eq=False)
class Recycled:
    """A subspace whose images are known, kept from one right side to the next.

    With A the operator of the equations in y = D x, and vectors in rows:

    Attributes:
        directions: U, (m, n), with A U = C.
        images: C, (m, n), orthonormal.
    """

    directions: Tensor
    images: Tensor


@dataclass(frozen=True, eq=False)
class Solved:
    """What `minimise` reached.

    Attributes:
        x: The solution.
        products: Products taken.
        cycle: The last subspace, for another right side of the same equations.
    """

    x: Tensor
    products: int
    cycle: "Cycle | None"


def minimise(
    equations: Equations,
    *,
    target: float,
    max_iterations: int,
    after: "Cycle | None" = None,
) -> Solved:
    r"""Solves D x = b + alpha B x from x = 0 by GMRES, preconditioned by D.

    The residual's 2-norm is what is minimised; it stops where that norm guarantees
    the target, $\|r\|_1 \le \sqrt n \|r\|_2$, or a whole cycle gained nothing.

    Args:
        equations: What to solve.
        target: L1 norm of the residual to reach.
        max_iterations: Products to spend at most.
        after: The subspace of an earlier solve of the same operator: its part of
            the solution costs no product, and the rest converges as if the slow
            modes in it were not there.

    Returns:
        `Solved`. The caller measures the residual of what it got.

    Sources:
        Saad and Schultz, GMRES, SIAM J. Sci. Stat. Comput. 1986; de Sturler, Nested
        Krylov methods based on GCR, J. Comput. Appl. Math. 1996, for recycling.
    """
    goal = target / math.sqrt(equations.right.numel())
    residual, x, taken = equations.right, torch.zeros_like(equations.right), 0
    recycled = None if after is None else after.recycled()
    if recycled is not None:
        known = recycled.images @ residual
        residual = residual - known @ recycled.images
        x = known @ recycled.directions / equations.diagonal
    before, cycle = math.inf, after
    while True:
        length = cast("Tensor", residual.norm())
        norm = float(length)
        if not goal < norm < 0.9 * before or taken >= max_iterations:
            return Solved(x, taken, cycle)
        before = norm
        cycle = Cycle(equations, residual, norm, recycled)
        x = x + cycle.run(goal, min(RESTART, max_iterations - taken))
        taken += cycle.size
        if cycle.estimate <= goal or taken >= max_iterations:
            return Solved(x, taken, cycle)
        residual = equations.residual(x)
        recycled = None
        taken += 1


class Cycle:
    """One Krylov subspace, its Hessenberg matrix kept triangular by rotations.

    The rows of `basis` are orthonormal: first the recycled images, then the Krylov
    vectors, each orthogonalised against all before it.
    """

    def __init__(
        self,
        equations: Equations,
        residual: Tensor,
        norm: float,
        recycled: Recycled | None,
    ) -> None:
        self.equations = equations
        self.first = residual / norm
        self.kept = recycled
        self.columns: list[list[float]] = []
        self.shares: list[list[float]] = []
        self.rotations: list[tuple[float, float]] = []
        self.rotated = [norm]
        self.basis = self.first[None]

    @property
    def size(self) -> int:
        """Dimension of the subspace: products taken."""
        return len(self.columns)

    @property
    def offset(self) -> int:
        """Rows of the basis that are recycled images."""
        return 0 if self.kept is None else len(self.kept.images)

    @property
    def estimate(self) -> float:
        """2-norm of the residual, by the recurrence."""
        return abs(self.rotated[-1])

    def run(self, goal: float, size: int) -> Tensor:
        """Extends the subspace until the goal or the size is met; the correction."""
        c = self.offset
        self.basis = self.first.new_empty(c + size + 1, len(self.first))
        if self.kept is not None:
            self.basis[:c] = self.kept.images
        self.basis[c] = self.first
        while self.size < size and self.estimate > goal:
            column = self._extended()
            self.shares.append(column[:c])
            self._rotate(column[c:])
        weights = self._inverse() @ self.rotated[: self.size]
        y = self._like(weights) @ self.basis[c : c + self.size]
        if self.kept is not None:
            y = y - self._like(weights @ self.shares) @ self.kept.directions
        return y / self.equations.diagonal

    def recycled(self) -> Recycled:
        """The Krylov vectors and, by the rotations, orthonormal images of theirs."""
        m, c = self.size, self.offset
        rotation = np.eye(m + 1)
        for i, (cosine, sine) in enumerate(self.rotations):
            rotation[i : i + 2] = [[cosine, sine], [-sine, cosine]] @ rotation[
                i : i + 2
            ]
        krylov = self.basis[c : c + m + 1]
        directions = krylov[:m]
        if self.kept is not None:
            shares = self._like(np.array(self.shares))
            directions = directions - shares @ self.kept.directions
        inverse = self._like(np.ascontiguousarray(self._inverse().T))
        new = Recycled(inverse @ directions, self._like(rotation[:m]) @ krylov)
        if self.kept is None:
            return new
        if c + m > RESTART:
            return self.kept
        return Recycled(
            torch.cat([self.kept.directions, new.directions]),
            torch.cat([self.kept.images, new.images]),
        )

    def _inverse(self) -> np.ndarray:
        """Of the triangle; of an undamped chain it may be singular."""
        triangle = np.zeros((self.size, self.size))
        for j, column in enumerate(self.columns):
            triangle[: j + 1, j] = column
        regular = bool(triangle.diagonal().all())
        return np.linalg.inv(triangle) if regular else np.linalg.pinv(triangle)

    def _like(self, numbers: np.ndarray) -> Tensor:
        return torch.from_numpy(numbers).to(self.basis)

    def _extended(self) -> list[float]:
        """One more product, orthogonalised twice: a column of the Hessenberg matrix."""
        j = self.offset + self.size
        known = self.basis[: j + 1]
        image = self.equations.preconditioned(self.basis[j])
        first = known @ image
        image.addmv_(known.T, first, alpha=-1)
        second = known @ image
        image.addmv_(known.T, second, alpha=-1)
        length = cast("Tensor", torch.linalg.vector_norm(image))
        norm = float(length)
        if norm > 0:
            torch.div(image, norm, out=self.basis[j + 1])
        else:  # the subspace is invariant and holds the solution
            self.basis[j + 1] = 0
        return [*first.add_(second).tolist(), norm]

    def _rotate(self, column: list[float]) -> None:
        """Makes the new column triangular by one more Givens rotation."""
        *entries, below = column
        for i, (cosine, sine) in enumerate(self.rotations):
            upper, lower = entries[i], entries[i + 1]
            entries[i] = cosine * upper + sine * lower
            entries[i + 1] = cosine * lower - sine * upper
        length = math.hypot(entries[-1], below)
        cosine, sine = (entries[-1] / length, below / length) if length else (1.0, 0.0)
        entries[-1] = length
        last = self.rotated[-1]
        self.rotated[-1:] = [cosine * last, -sine * last]
        self.rotations.append((cosine, sine))
        self.columns.append(entries)
