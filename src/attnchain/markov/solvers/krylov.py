r"""Leading invariant subspaces of one chain by a block Krylov-Schur method.

The constant vector 1 is always a right eigenvector for the eigenvalue 1, so only the
mean-zero part of P is iterated: $M z = P z - \overline{P z}$. In the orthonormal basis
$[\mathbf 1 / \sqrt n, Q]$ the chain is block triangular, hence M has exactly the other
eigenvalues of P, and its Schur vectors complete the constant one. The left
eigenvectors of M are those of P, which sum to zero.
"""

# pyright: reportUnknownMemberType=false

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from attnchain.checks import check_finite
from attnchain.errors import ConvergenceError
from attnchain.markov.solvers.mean_zero import factorised
from attnchain.markov.solvers.schur import (
    Eigenpairs,
    OrderedSchur,
    eigenvalues,
    ordered_schur,
)
from attnchain.operators import AbstractTransition, DenseTransition, Side

BLOCK = 8
"""Vectors per product in tiles, where eight columns cost little more than one."""
DENSE_LIMIT = 1_500
"""Up to this many states, all eigenvalues at once are the way out."""
_MOST = 120
"""Basis vectors kept before a restart, and more where more are wanted."""
_EXPLORED = 4
"""Block products after the first deflation, in search of more copies."""
_PASSES = 8
"""Projections at most until rows are orthogonal; two or three do."""
_NOISE = 4
"""Images below this many units of rounding have vanished."""


@dataclass(frozen=True, eq=False)
class InvariantSubspace:
    """Leading part of the mean-zero spectrum, by decreasing modulus.

    Attributes:
        basis: Orthonormal rows Z, (m, n): P Z^T is nearly Z^T T plus constants.
        coupling: What is missing: the residual of column i is column i of this.
        pairs: Eigenvalues and eigenvectors of T, with condition numbers.
        others: Every eigenvalue seen, the leading ones included.
        deflated: Norm of what was taken for zero.
        products: Single-vector products spent.
    """

    basis: Tensor
    coupling: np.ndarray
    pairs: Eigenpairs
    others: np.ndarray
    deflated: float
    products: int

    @property
    def residuals(self) -> np.ndarray:
        """Norm of the residual of each Schur vector, (m,)."""
        return np.linalg.norm(self.coupling, axis=0) + self.deflated

    @property
    def conditions(self) -> np.ndarray:
        r"""Condition number of each eigenvalue, (m,), from two sides.

        Inside the subspace left eigenvectors are shorter than they are. But the part
        $(y v) / (y x)$ of a random unit vector v in the eigenvector x is the condition
        number over $\sqrt n$, up to chance, and v is where the iteration began.
        """
        return np.maximum(self.pairs.conditions, self.pairs.starts)

    @property
    def errors(self) -> np.ndarray:
        """Residual of each eigenvector times the condition number, (m,)."""
        residuals = np.linalg.norm(self.coupling @ self.pairs.vectors, axis=0)
        return (residuals + self.deflated) * self.conditions


def leading_subspace(
    chain: AbstractTransition,
    wanted: int,
    tolerance: float,
    max_products: int,
    side: Side = "pull",
    *,
    conditioned: bool = False,
) -> InvariantSubspace:
    """The `wanted` eigenvalues of largest modulus beside the 1, or one more.

    A complex pair is never split. The method stops when the residuals of the wanted
    Schur vectors are below the tolerance, or the products are spent; the caller
    compares. A chain of up to 1,500 states that resists is factorised.

    Args:
        chain: A single chain.
        wanted: Number of eigenvalues, less than n.
        tolerance: Residual norm to reach.
        max_products: Single-vector products to spend at most.
        side: "pull" for the right invariant subspace, "push" for the left one, whose
            vectors sum to zero.
        conditioned: Whether the tolerance is for the eigenvalues' errors instead, as
            far as residuals above rounding can make them smaller.

    Returns:
        The subspace, with at least `wanted` vectors where n allows it.

    Sources:
        Stewart, A Krylov-Schur algorithm for large eigenproblems, 2001.
    """
    n = chain.n_states
    # One vector finds a single eigenvalue in a third of the products, but would miss
    # the copies of a multiple one.
    one = wanted == 1 and isinstance(chain, DenseTransition)
    block = 1 if one else max(BLOCK, min(wanted, 2 * BLOCK))
    most = max(_MOST, wanted + BLOCK + 1 + 2 * block)
    if n <= (most + block if one else 2 * most):
        return dense_subspace(chain, wanted, side)
    space = _Krylov(chain, block, most)
    resists = math.inf
    if n <= DENSE_LIMIT and max_products >= 2 * n:
        resists = min(4 * n, max_products - n)
    while True:
        space.advance(chain, side, wanted, max_products)
        order = ordered_schur(space.projected, wanted + BLOCK * int(space.full))
        found = space.leading(order, order.closed_size(wanted))
        if space.products >= max_products or (
            space.explored and _fits(found, tolerance, conditioned, space.noise)
        ):
            return found
        if space.products >= resists:
            return dense_subspace(chain, wanted, side)
        if space.full:
            space.restart(order, order.closed_size(wanted + BLOCK))


def _fits(
    found: InvariantSubspace, tolerance: float, conditioned: bool, noise: float
) -> bool:
    residual = found.residuals.max()
    if conditioned:
        return bool(residual <= noise or found.errors.max() <= tolerance)
    return bool(residual <= tolerance)


def dense_subspace(
    chain: AbstractTransition, wanted: int, side: Side
) -> InvariantSubspace:
    """The same from all eigenvalues at once."""
    whole = factorised(chain, side)
    order = ordered_schur(whole.projected, wanted)
    size = order.closed_size(wanted)
    n = chain.n_states
    rounding = np.full((1, size), n * np.finfo(float).eps)
    return InvariantSubspace(
        whole.lifted(order.vectors[:, :size].T),
        rounding,
        order.eigenpairs(size, np.zeros((n - 1, 1))),
        eigenvalues(order.triangular),
        0.0,
        n,
    )


class _Krylov:
    """Basis V (m, n) and next block Q (b, n): M V^T = V^T H + Q^T E.

    Both lie in `rows` below the constant vector, all orthonormal; H and below it E are
    the first m columns of `matrix`, and `start` the first block in coordinates of V.
    """

    def __init__(self, chain: AbstractTransition, block: int, most: int) -> None:
        n = chain.n_states
        like: dict[str, Any] = {"dtype": chain.dtype, "device": chain.device}
        self.generator = torch.Generator().manual_seed(0)
        self.rows = torch.empty(1 + most + block, n, **like)
        self.rows[0] = n**-0.5
        self.rows[1 : 1 + block], _ = _orthonormal(self.rows[:1], self._random(block))
        self.matrix = np.zeros((most + block, most))
        self.start = np.zeros((most, block))
        self.start[:block] = np.eye(block)
        self.block, self.most = block, most
        self.size, self.products = 0, 0
        self.noise = _NOISE * torch.finfo(chain.dtype).eps
        self.deflated, self.deflated_at = 0.0, math.inf

    @property
    def basis(self) -> Tensor:
        """V."""
        return self.rows[1 : 1 + self.size]

    @property
    def projected(self) -> np.ndarray:
        """H."""
        return self.matrix[: self.size, : self.size]

    @property
    def coupling(self) -> np.ndarray:
        """E."""
        return self.matrix[self.size : self.size + self.block, : self.size]

    @property
    def full(self) -> bool:
        """Whether there is no room for another block."""
        return self.size + self.block > self.most

    @property
    def explored(self) -> bool:
        """Whether fresh directions, if any, had time to show more eigenvalues."""
        since = self.products - self.deflated_at
        return self.deflated_at == math.inf or since >= _EXPLORED * self.block

    def advance(
        self, chain: AbstractTransition, side: Side, wanted: int, limit: int
    ) -> None:
        """A quarter more products, or until the basis is full or the limit reached.

        Looking at a small Schur form costs as much as two products.
        """
        goal = min(max(8.0, 1.25 * self.products), limit)
        while self.size < wanted or not (self.full or self.products >= goal):
            self._extend(chain, side)

    def _extend(self, chain: AbstractTransition, side: Side) -> None:
        """One more block product, orthogonalised twice."""
        m, b = self.size, self.block
        known, new = self.rows[: 1 + m + b], slice(m, m + b)
        image = chain.multiply(known[-b:], side)
        largest = cast("Tensor", torch.linalg.vector_norm(image, dim=-1).max())
        first = image @ known.T
        image.addmm_(first, known, alpha=-1)
        second = image @ known.T
        image.addmm_(second, known, alpha=-1)
        columns = first.add_(second).double().cpu().numpy()[:, 1:]
        self.matrix[: m + b, new] = columns.T
        self.matrix[m + b : m + 2 * b, new] = self._append(image, known, largest)
        self.size, self.products = m + b, self.products + b

    def _append(self, image: Tensor, known: Tensor, largest: Tensor) -> np.ndarray:
        """The next block of rows, and E with image^T = rows^T E but for rounding.

        Directions in which the image has vanished are deflated: their part of E is
        zero, and fresh ones take their place.
        """
        b = self.block
        out = self.rows[len(known) : len(known) + b]
        if b == 1 and (norm := _norm(image)) > 1e-3:
            torch.div(image, norm, out=out)
            return np.array([[norm]])
        check_finite(image, "a product of the chain")
        q, r = _qr(image.T)
        u, sizes, v = np.linalg.svd(r.double().cpu().numpy())
        alive = int((sizes > max(1.0, float(largest)) * self.noise).sum())
        if alive < b:
            self.deflated = max(self.deflated, float(sizes[alive]))
            self.deflated_at = min(self.deflated_at, self.products + b)
        rows = torch.from_numpy(u.T[:alive].copy()).to(q) @ q.T
        rows = torch.cat([rows, self._random(b - alive)])
        out[:], correction = _orthonormal(known, rows)
        return correction[:, :alive] @ (sizes[:alive, None] * v[:alive])

    def _random(self, count: int) -> Tensor:
        """Random rows, the same on every device."""
        drawn = torch.randn(
            count, self.rows.shape[1], generator=self.generator, dtype=torch.float64
        )
        return drawn.to(self.rows)

    def restart(self, order: OrderedSchur, size: int) -> None:
        """Only the leading Schur vectors stay."""
        m, b = self.size, self.block
        vectors = order.vectors[:, :size]
        coupling = self.coupling @ vectors
        kept = torch.from_numpy(vectors.T.copy()).to(self.rows) @ self.basis
        self.rows[1 + size : 1 + size + b] = self.rows[1 + m : 1 + m + b].clone()
        self.rows[1 : 1 + size] = kept
        start = order.projection(size) @ (order.vectors.T @ self.start[:m])
        self.matrix[:], self.start[:] = 0, 0
        self.matrix[:size, :size] = order.triangular[:size, :size]
        self.matrix[size : size + b, :size] = coupling
        self.start[:size] = start
        self.size = size

    def leading(self, order: OrderedSchur, size: int) -> InvariantSubspace:
        """The first `size` Schur vectors, turned back into the space of the states."""
        pairs = order.eigenpairs(size, self.start[: self.size])
        scale = math.sqrt(self.rows.shape[1] / self.block)
        rotation = torch.from_numpy(order.vectors[:, :size].T.copy())
        return InvariantSubspace(
            rotation.to(self.rows) @ self.basis,
            self.coupling @ order.vectors[:, :size],
            Eigenpairs(
                pairs.values, pairs.vectors, pairs.conditions, scale * pairs.starts
            ),
            eigenvalues(order.triangular),
            self.deflated,
            self.products,
        )


def _norm(vector: Tensor) -> float:
    norm = cast("Tensor", torch.linalg.vector_norm(vector))
    return float(norm)


def _qr(matrix: Tensor) -> tuple[Tensor, Tensor]:
    return cast("tuple[Tensor, Tensor]", torch.linalg.qr(matrix))


def _orthonormal(known: Tensor, rows: Tensor) -> tuple[Tensor, np.ndarray]:
    """Rows made orthonormal and orthogonal to those known, and what they were in them.

    Projecting loses accuracy where little is left, so it is repeated until most is.
    """
    b = len(rows)
    correction = np.eye(b)
    for _ in range(_PASSES):
        rows = rows - (rows @ known.T) @ known
        q, r = _qr(rows.T)
        rows, triangle = q.T, r.double().cpu().numpy()
        correction = triangle @ correction
        if abs(np.diagonal(triangle)).min() > 0.7:
            return rows, correction
    raise ConvergenceError("no further direction is orthogonal to those known")
