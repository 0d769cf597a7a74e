"""Eigenvalues and the times derived from them."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from attnchain.reference.limits import stationary

Array = npt.NDArray[np.float64]


def eigenvalues(matrix: Array) -> npt.NDArray[np.complex128]:
    """All eigenvalues, largest modulus first; of a pair, positive imaginary part first.

    Example:
        >>> eigenvalues(np.array([[.5, .5], [.25, .75]])).real
        array([1.  , 0.25])
    """
    values = np.linalg.eigvals(matrix).astype(np.complex128)
    modulus = np.round(np.abs(values), 12)
    return values[np.lexsort((-values.imag, -values.real, -modulus))]


def second_eigenvalue(matrix: Array) -> complex:
    """Eigenvalue of second largest modulus; 0 for a chain of one state."""
    return complex(eigenvalues(matrix)[1]) if len(matrix) > 1 else 0j


def spectral_gap(matrix: Array) -> float:
    """How far the second eigenvalue stays inside the unit circle: `1 - |lambda_2|`."""
    return 1.0 - abs(second_eigenvalue(matrix))


def relaxation_time(matrix: Array) -> float:
    """Relaxation time `1 / (1 - |lambda_2|)`, in bounces, for an aperiodic chain.

    Sources:
        Levin and Peres, Markov Chains and Mixing Times, 2nd ed., section 12.2.
    """
    return 1.0 / spectral_gap(matrix)


def implied_timescale(matrix: Array) -> float:
    """Bounces in which the slowest mode shrinks by e: `-1 / ln |lambda_2|`.

    Defined for `0 < |lambda_2| < 1`.
    """
    return -1.0 / math.log(abs(second_eigenvalue(matrix)))


def mixing_time(matrix: Array, epsilon: float = 0.25) -> float:
    """First t with `max_i TV(P^t[i], pi) <= epsilon`; infinite for a periodic chain.

    `TV(u, w) = 1/2 sum_j |u_j - w_j|` is the total variation distance.

    Sources:
        Levin and Peres, Markov Chains and Mixing Times, 2nd ed., section 4.5.

    Example:
        >>> mixing_time(np.array([[.9, .1], [.1, .9]]))
        4
    """
    pi = stationary(matrix)
    if spectral_gap(matrix) < 1e-12:
        return math.inf
    after, bounces = np.eye(len(matrix)), 0
    while 0.5 * np.abs(after - pi).sum(axis=1).max() > epsilon:
        after, bounces = after @ matrix, bounces + 1
    return bounces


def explained_bounce(matrix: Array, k: int, t: int) -> float:
    r"""Share of t bounces that the k slowest modes carry; right to the eigenvectors.

    With $S = D P D^{-1}$, $D = \mathrm{diag}(\sqrt\pi)$, and Q the first k columns that
    Gram-Schmidt makes of its eigenvectors, slowest first:
    $1 - \|S^t (1 - Q Q^*)\|_F^2 / \|S^t - \sqrt\pi \sqrt\pi^\top\|_F^2$.

    Example:
        >>> explained_bounce(np.array([[.9, .1], [.5, .5]]), 2, 3)
        1.0
    """
    root = np.sqrt(stationary(matrix))
    even = root[:, None] * matrix / root
    values, vectors = np.linalg.eig(even)
    slowest = vectors[:, np.argsort(-np.abs(values), kind="stable")[:k]]
    modes, _ = np.linalg.qr(slowest)
    after = np.linalg.matrix_power(even, t)
    lost = np.linalg.norm(after - after @ modes @ modes.conj().T) ** 2
    return float(1 - lost / np.linalg.norm(after - np.outer(root, root)) ** 2)


def lambda2_weights(matrices: Sequence[Array], exponent: float = 1.0) -> Array:
    """Weights of heads by how slowly they mix, summing to one.

    `w_h = |lambda_2(P_h)|^e / sum_h |lambda_2(P_h)|^e`.

    Example:
        >>> heads = [np.array([[.8, .2], [.2, .8]]), np.array([[.7, .3], [.1, .9]])]
        >>> lambda2_weights(heads)
        array([0.5, 0.5])
    """
    moduli = np.array([abs(second_eigenvalue(matrix)) for matrix in matrices])
    return moduli**exponent / (moduli**exponent).sum()
