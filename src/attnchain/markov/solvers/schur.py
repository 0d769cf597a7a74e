"""Real Schur forms ordered by modulus, and how well their eigenvalues are known."""

# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false

from dataclasses import dataclass
from typing import Any, cast

import numpy as np


@dataclass(frozen=True, eq=False)
class Eigenpairs:
    """Leading eigenvalues of a Schur form T, in its order.

    Attributes:
        values: Eigenvalues, (m,); of a complex pair the one with imaginary part > 0
            first.
        vectors: Unit right eigenvectors of the leading block of T, one a column.
        conditions: Condition numbers: 1 over the cosine between left and right
            eigenvector of T.
        starts: Size of the projection of the start on each eigenvector.
    """

    values: np.ndarray
    vectors: np.ndarray
    conditions: np.ndarray
    starts: np.ndarray


@dataclass(frozen=True, eq=False)
class OrderedSchur:
    """T and Q of a matrix Q T Q^T, eigenvalues by decreasing modulus."""

    triangular: np.ndarray
    vectors: np.ndarray

    def closed_size(self, wanted: int) -> int:
        """Wanted columns, or one more where that would split a complex pair."""
        size = min(wanted, len(self.triangular))
        splits = size < len(self.triangular) and self.triangular[size, size - 1] != 0
        return size + int(splits)

    def projection(self, size: int) -> np.ndarray:
        """Rows that project on the first `size` columns along all others.

        The rows [1 R] span the left invariant subspace: [1 R] T = T_11 [1 R].
        """
        import scipy.linalg

        first, second = np.split(self.triangular[:size], [size], axis=1)
        if second.size == 0:
            return np.eye(size)
        rest = self.triangular[size:, size:]
        (solve,) = cast("Any", scipy.linalg.get_lapack_funcs)(("trsyl",), (first,))
        beside, scale, _ = solve(first, rest, second, isgn=-1)
        beside = np.nan_to_num(beside / max(scale, np.finfo(float).tiny))
        return np.hstack([np.eye(size), beside])

    def eigenpairs(self, size: int, start: np.ndarray) -> Eigenpairs:
        """The first `size` of T, with the part that `start` (in columns) has in each.

        Args:
            size: Closed under complex pairs.
            start: Vectors in the coordinates of the matrix, one a column.
        """
        import scipy.linalg

        leading = self.triangular[:size, :size]
        eig = cast("Any", scipy.linalg.eig)
        found, left, right = eig(leading, left=True, right=True)
        values = eigenvalues(leading)
        order = _matched(values, found)
        right, rows = right[:, order], left[:, order].conj().T
        projection = self.projection(size)
        tiny = np.finfo(float).tiny
        products = np.maximum(abs((rows * right.T).sum(1)), tiny)
        parts = rows @ projection @ (self.vectors.T @ start)
        return Eigenpairs(
            values,
            right.astype(complex),
            np.linalg.norm(rows @ projection, axis=1) / products,
            np.linalg.norm(parts, axis=1) / products,
        )


def eigenvalues(triangular: np.ndarray) -> np.ndarray:
    """Eigenvalues of a real Schur form in its own order, pairs with + first."""
    values = np.diagonal(triangular).astype(complex)
    i = np.flatnonzero(np.diagonal(triangular, -1))
    half = (triangular[i, i] - triangular[i + 1, i + 1]) / 2
    products = triangular[i, i + 1] * triangular[i + 1, i]
    roots = np.sqrt((half**2 + products).astype(complex))
    middle = (triangular[i, i] + triangular[i + 1, i + 1]) / 2
    values[i], values[i + 1] = middle + roots, middle - roots
    return values


def ordered_schur(matrix: np.ndarray, wanted: int) -> OrderedSchur:
    """Schur form whose first `wanted` columns have the largest moduli, in order."""
    import scipy.linalg

    schur = cast("Any", scipy.linalg.schur)
    lapack = cast("Any", scipy.linalg.get_lapack_funcs)
    triangular, vectors = schur(matrix, output="real", check_finite=False)
    (swap,) = lapack(("trexc",), (triangular,))
    done, end = 0, len(matrix)
    while done < min(wanted, len(matrix)):
        starts, moduli = _blocks(triangular, done)
        source = int(starts[moduli[starts < end].argmax()])
        if source != done:
            triangular, vectors, info = swap(triangular, vectors, source + 1, done + 1)
            if info != 0:  # stuck behind a block of nearly the same eigenvalue
                end = source
                continue
        end = len(matrix)
        pair = done + 1 < len(matrix) and triangular[done + 1, done] != 0
        done += 2 if pair else 1
    return OrderedSchur(triangular, vectors)


def shared_errors(
    values: np.ndarray, errors: np.ndarray, conditions: np.ndarray, others: np.ndarray
) -> np.ndarray:
    """First-order errors made larger where eigenvalues lie within them.

    An ill-conditioned eigenvalue whose error reaches m others may move m times as far:
    the discs that hold them together have this radius (Bauer and Fike).

    Args:
        values: The eigenvalues in question.
        errors: Their first-order errors.
        conditions: Their condition numbers, which bound how much larger.
        others: All known eigenvalues, those in question included.
    """
    distances = abs(values[:, None] - others)
    reach = errors
    for _ in range(len(others)):
        inside = (distances <= 8 * reach[:, None]).sum(1)
        wider = errors * np.clip(inside, 1, np.maximum(conditions, 1))
        if (wider <= reach).all():
            break
        reach = np.maximum(wider, reach)
    return reach


def _matched(values: np.ndarray, found: np.ndarray) -> list[int]:
    """For each value the index of the nearest one found, none twice."""
    distances = abs(values[:, None] - found)
    order: list[int] = []
    for i in range(len(values)):
        order.append(int(distances[i].argmin()))
        distances[:, order[-1]] = np.inf
    return order


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
