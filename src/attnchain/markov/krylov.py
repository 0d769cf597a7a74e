r"""Leading invariant subspaces of one chain by a block Krylov-Schur method.

The constant vector 1 is always a right eigenvector for the eigenvalue 1, so only the
mean-zero part of P is iterated: $M z = P z - \overline{P z}$. In the orthonormal basis
$[\mathbf 1 / \sqrt n, Q]$ the chain is block triangular, hence M has exactly the other
eigenvalues of P, and its Schur vectors complete the constant one. The left
eigenvectors of M are those of P, which sum to zero.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnchain.operators import AbstractTransition, DenseTransition, Side

BLOCK = 8
"""Vectors per product in tiles, where eight columns cost little more than one."""
_MOST = 120
"""Basis vectors kept before a restart, and more where more are wanted."""
_DENSE_LIMIT = 512
"""Up to this many states, all eigenvalues at once are the way out."""


@dataclass(frozen=True, eq=False)
class InvariantSubspace:
    """Leading part of the mean-zero spectrum, by decreasing modulus.

    Attributes:
        triangular: Ordered real Schur form T, (m, m), float64.
        basis: Orthonormal rows Z, (m, n): P Z^T is nearly Z^T T plus constants.
        coupling: What is missing: the residual of column i is column i of this.
        conditions: Condition number of each eigenvalue, (m,).
        products: Single-vector products spent.
    """

    triangular: np.ndarray
    basis: Tensor
    coupling: np.ndarray
    conditions: np.ndarray
    products: int

    @property
    def residuals(self) -> np.ndarray:
        """Norm of the residual of each Schur vector, (m,)."""
        return np.linalg.norm(self.coupling, axis=0)


def leading_subspace(
    chain: AbstractTransition,
    wanted: int,
    tolerance: float,
    max_products: int,
    side: Side = "pull",
) -> InvariantSubspace:
    """The `wanted` eigenvalues of largest modulus beside the 1, or one more.

    A complex pair is never split. The method stops when the residuals of the wanted
    Schur vectors are below the tolerance, or the products are spent; the caller
    compares.

    Args:
        chain: A single chain.
        wanted: Number of eigenvalues, less than n.
        tolerance: Residual norm to reach.
        max_products: Single-vector products to spend at most.
        side: "pull" for the right invariant subspace, "push" for the left one, whose
            vectors sum to zero.

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
    if n <= most:
        return _dense_subspace(chain, side)
    space = _Krylov(chain, block, most)
    check = 8.0  # a small Schur form costs as much as two products
    while True:
        space.extend(chain, side)
        early = space.products < min(check, max_products) or space.size < wanted
        if early and not space.full:
            continue
        check = 1.25 * space.products
        more = wanted + BLOCK if space.full else wanted
        order = _ordered_schur(space.projected, more)
        coupling = space.coupling @ order.vectors
        kept = order.closed_size(wanted)
        worst = np.linalg.norm(coupling[:, :kept], axis=0).max()
        if worst <= tolerance or space.products >= max_products:
            return order.leading(kept, space.basis, coupling, space.products)
        if n <= _DENSE_LIMIT and space.products >= 4 * n:
            return _dense_subspace(chain, side)
        if space.full:
            space.restart(order, order.closed_size(wanted + BLOCK))


def _dense_subspace(chain: AbstractTransition, side: Side) -> InvariantSubspace:
    """All of it at once, for few states."""
    n = chain.n_states
    exact = chain.to(torch.float64)
    states = torch.eye(n, dtype=exact.dtype, device=exact.device)
    matrix = exact.push(states) if side == "pull" else exact.pull(states)
    householder = torch.linalg.qr(
        torch.cat([torch.ones(n, 1), torch.eye(n)[:, : n - 1]], 1).to(matrix)
    ).Q[:, 1:]
    projected = (householder.T @ matrix @ householder).cpu().numpy()
    order = _ordered_schur(projected, n)
    rounding = np.full((1, n - 1), n * np.finfo(float).eps)
    return order.leading(n - 1, householder.T, rounding, n)


class _Krylov:
    """Basis V (m, n) and next block Q (b, n): M V^T = V^T H + Q^T E.

    Both lie in `rows` below the constant vector, all orthonormal; H and below it E are
    the first m columns of `matrix`.
    """

    def __init__(self, chain: AbstractTransition, block: int, most: int) -> None:
        n = chain.n_states
        generator = torch.Generator().manual_seed(0)
        random = torch.randn(block, n, generator=generator, dtype=torch.float64)
        like = {"dtype": chain.dtype, "device": chain.device}
        self.rows = torch.empty(1 + most + block, n, **like)
        self.rows[0] = n**-0.5
        self.rows[1 : 1 + block] = _orthonormal(
            (random - random.mean(-1, keepdim=True)).to(**like)
        )
        self.matrix = np.zeros((most + block, most))
        self.block, self.most = block, most
        self.size, self.products = 0, 0

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

    def extend(self, chain: AbstractTransition, side: Side) -> None:
        """One more block product, orthogonalised twice."""
        m, b = self.size, self.block
        known, new = self.rows[: 1 + m + b], slice(m, m + b)
        image = chain.pull(known[-b:]) if side == "pull" else chain.push(known[-b:])
        first = image @ known.T
        image.addmm_(first, known, alpha=-1)
        second = image @ known.T
        image.addmm_(second, known, alpha=-1)
        triangle = _factor(image, known, out=self.rows[1 + m + b : 1 + m + 2 * b])
        columns = first.add_(second).double().cpu().numpy()[:, 1:]
        self.matrix[: m + b, new] = columns.T
        self.matrix[m + b : m + 2 * b, new] = triangle
        self.size, self.products = m + b, self.products + b

    def restart(self, order: "_Schur", size: int) -> None:
        """Only the leading Schur vectors stay."""
        m, b = self.size, self.block
        vectors = order.vectors[:, :size]
        coupling = self.coupling @ vectors
        kept = torch.from_numpy(vectors.T.copy()).to(self.rows) @ self.basis
        self.rows[1 + size : 1 + size + b] = self.rows[1 + m : 1 + m + b].clone()
        self.rows[1 : 1 + size] = kept
        self.matrix[:] = 0
        self.matrix[:size, :size] = order.triangular[:size, :size]
        self.matrix[size : size + b, :size] = coupling
        self.size = size


def _orthonormal(rows: Tensor) -> Tensor:
    return torch.linalg.qr(rows.T).Q.T.contiguous()


def _factor(image: Tensor, known: Tensor, *, out: Tensor) -> np.ndarray:
    """Image = triangle^T @ out, with `out` orthonormal and orthogonal to `known`.

    Where the image has lost its rank (an invariant subspace was found), QR fills up
    with arbitrary directions, which must be made orthogonal to `known` once more.
    """
    if len(image) == 1 and (norm := float(torch.linalg.vector_norm(image))) > 1e-3:
        torch.div(image, norm, out=out)
        return np.array([[norm]])
    q, r = torch.linalg.qr(image.T)
    rows = q.T - (q.T @ known.T) @ known
    q, correction = torch.linalg.qr(rows.T)
    out[:] = q.T
    return (correction @ r).double().cpu().numpy()


@dataclass(frozen=True, eq=False)
class _Schur:
    """Real Schur form with eigenvalues by decreasing modulus."""

    triangular: np.ndarray
    vectors: np.ndarray

    def closed_size(self, wanted: int) -> int:
        """Wanted columns, or one more where that would split a complex pair."""
        size = min(wanted, self.triangular.shape[0])
        splits = size < len(self.triangular) and self.triangular[size, size - 1] != 0
        return size + int(splits)

    def leading(
        self, size: int, basis: Tensor, coupling: np.ndarray, products: int
    ) -> InvariantSubspace:
        """The first `size` vectors, turned back into the space of the states."""
        rotation = torch.from_numpy(self.vectors[:, :size].T.copy())
        return InvariantSubspace(
            self.triangular[:size, :size],
            rotation.to(basis) @ basis,
            coupling[:, :size],
            self.conditions(size),
            products,
        )

    def conditions(self, size: int) -> np.ndarray:
        """1 / cosine between left and right eigenvector, of the first ones in T."""
        import scipy.linalg

        eig: Any = scipy.linalg.eig
        values, left, right = eig(self.triangular, left=True, right=True)
        cosines = np.abs((left.conj() * right).sum(0))
        leading = eigenvalues(self.triangular[:size, :size])
        order = [int(np.argmin(abs(values - value))) for value in leading]
        return 1 / np.maximum(cosines[order], np.finfo(float).tiny)


def eigenvalues(triangular: np.ndarray) -> np.ndarray:
    """Eigenvalues of a real Schur form in its own order, pairs with + first."""
    values: list[complex] = []
    for i in _blocks(triangular, 0)[0]:
        if i + 1 < len(triangular) and triangular[i + 1, i] != 0:
            pair = np.linalg.eigvals(triangular[i : i + 2, i : i + 2])
            values.extend(sorted(pair, key=lambda z: -z.imag))
        else:
            values.append(complex(triangular[i, i]))
    return np.array(values, dtype=complex)


def _ordered_schur(matrix: np.ndarray, wanted: int) -> _Schur:
    """Schur form whose first `wanted` columns have the largest moduli, in order."""
    import scipy.linalg

    schur: Any = scipy.linalg.schur
    triangular, vectors = schur(matrix, output="real", check_finite=False)
    (swap,) = scipy.linalg.get_lapack_funcs(("trexc",), (triangular,))
    done = 0
    while done < min(wanted, len(matrix)):
        starts, moduli = _blocks(triangular, done)
        source = int(starts[moduli.argmax()])
        if source != done:
            triangular, vectors, info = swap(triangular, vectors, source + 1, done + 1)
            if info != 0:  # two blocks too close to swap: equal moduli in effect
                break
        pair = done + 1 < len(matrix) and triangular[done + 1, done] != 0
        done += 2 if pair else 1
    return _Schur(triangular, vectors)


def _blocks(triangular: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the diagonal blocks begin, from `first` on, and their moduli."""
    diagonal, below = np.diagonal(triangular), np.diagonal(triangular, -1)
    starts = np.flatnonzero(np.append(True, below == 0))
    starts = starts[starts >= first]
    moduli = abs(diagonal[starts])
    pairs = np.append(below, 0)[starts] != 0
    i = starts[pairs]
    products = triangular[i, i + 1] * triangular[i + 1, i]
    moduli[pairs] = np.sqrt(abs(diagonal[i] * diagonal[i + 1] - products))
    return starts, moduli
