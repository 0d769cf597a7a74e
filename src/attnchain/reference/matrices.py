"""Transition matrices and the chains made from them, as plain arrays.

A matrix from elsewhere whose rows sum to one only as far as they are rounded is read
as `normalize_rows` of it, in float64.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from attnchain.errors import NotStochasticError

Array = npt.NDArray[np.float64]


def attention(
    q: npt.ArrayLike,
    k: npt.ArrayLike,
    *,
    scale: float | None = None,
    mask: npt.ArrayLike | None = None,
    causal: bool = False,
) -> Array:
    """Transition matrix of one attention head.

    `P[i, j] = exp(s_ij) / sum_j exp(s_ij)` with `s_ij = scale q_i . k_j + mask_ij`.
    The largest number that a mask adds in a row is taken off first: it changes nothing,
    but scores would be rounded to its spacing.

    Args:
        q: Queries, `(n, d)`.
        k: Keys, `(n, d)`.
        scale: Factor on the scores; `1 / sqrt(d)` when not given.
        mask: True where attention is allowed, or a number added to the score.
        causal: Forbid steps to later states, `j > i`.

    Raises:
        NotStochasticError: A state may step nowhere.

    Sources:
        Vaswani et al., Attention Is All You Need, 2017, equation 1.

    Example:
        >>> attention([[0.0], [0.0]], [[1.0], [2.0]])
        array([[0.5, 0.5],
               [0.5, 0.5]])
    """
    q, k = np.asarray(q, np.float64), np.asarray(k, np.float64)
    n, d = q.shape
    scores = (d**-0.5 if scale is None else scale) * (q @ k.T)
    added = np.zeros((n, n))
    if mask is not None:
        given = np.asarray(mask)
        given = np.where(given, 0.0, -np.inf) if given.dtype == bool else given
        added = added + given
    if causal:
        added = np.where(np.tril(np.ones((n, n), bool)), added, -np.inf)
    most = added.max(axis=1, keepdims=True)
    scores = scores + (added - np.where(np.isneginf(most), 0.0, most))
    highest = scores.max(axis=1, keepdims=True)
    if np.isneginf(highest).any():
        row = int(np.argmin(highest))
        raise NotStochasticError(
            f"Expected a key for every query; row {row} is masked everywhere. "
            "Drop that state instead of masking it."
        )
    return normalize_rows(np.exp(scores - highest))


def normalize_rows(matrix: npt.ArrayLike) -> Array:
    """Divide every row by its sum: `P[i, j] = M[i, j] / sum_j M[i, j]`.

    Raises:
        NotStochasticError: A row has no mass.

    Example:
        >>> normalize_rows([[1, 3], [2, 0]])
        array([[0.25, 0.75],
               [1.  , 0.  ]])
    """
    matrix = np.asarray(matrix, np.float64)
    sums = matrix.sum(axis=1, keepdims=True)
    if not (sums > 0).all():
        row = int(np.argmin(sums))
        raise NotStochasticError(
            f"Expected rows with mass; row {row} sums to {sums[row, 0]:g}. "
            "Drop that state, or damp the chain first."
        )
    return matrix / sums


def push(v: Array, matrix: Array) -> Array:
    """Distribution after one bounce: `v P`."""
    return v @ matrix


def pull(matrix: Array, f: Array) -> Array:
    """Expected value of an observable one bounce ahead: `P f`."""
    return matrix @ f


def mixture(matrices: Sequence[Array], weights: Sequence[float]) -> Array:
    """Choose a chain with probability `w_h`, then step: `sum_h w_h P_h`.

    Weights are divided by their sum.
    """
    shares: Array = np.asarray(weights, np.float64)
    mixed = np.tensordot(shares / shares.sum(), np.stack(matrices), axes=1)
    return mixed.astype(np.float64)


def product(matrices: Sequence[Array]) -> Array:
    """Step by the first chain, then the next: `P_1 P_2 ... P_m`."""
    result = np.eye(len(matrices[0]))
    for factor in matrices:
        result = result @ factor
    return result


def power(matrix: Array, exponent: int) -> Array:
    """Several bounces by the same chain: `P^t`."""
    return product([np.eye(len(matrix)), *[matrix] * exponent])


def damped(
    matrix: Array, damping: float = 0.99, personalization: npt.ArrayLike | None = None
) -> Array:
    """Follow the chain or jump: `T = damping P + (1 - damping) 1 v^T`.

    Args:
        matrix: `(n, n)`.
        damping: Probability of following the chain.
        personalization: Distribution `v` jumped to, `(n,)`, divided by its sum; uniform
            when not given.

    Sources:
        Page, Brin, Motwani and Winograd, The PageRank Citation Ranking, 1999.

    Example:
        >>> damped(np.eye(2), 0.8)
        array([[0.9, 0.1],
               [0.1, 0.9]])
    """
    n = len(matrix)
    given = np.ones(n) if personalization is None else personalization
    v: Array = np.asarray(given, np.float64)
    v = v / v.sum()
    return damping * matrix + (1 - damping) * np.outer(np.ones(n), v)


def restricted(matrix: Array, keep: npt.ArrayLike) -> Array:
    """Drop states and share each row's mass among the kept ones.

    `R[i, j] = P[i, j] / sum_{j in keep} P[i, j]` for i and j in `keep`. For attention
    this is the softmax over the kept keys alone.

    Args:
        matrix: `(n, n)`.
        keep: Boolean `(n,)`, or the indices to keep in the order wanted.

    Example:
        >>> restricted(np.array([[.5, .25, .25], [.2, .6, .2], [1., 0, 0]]), [0, 1])
        array([[0.66666667, 0.33333333],
               [0.25      , 0.75      ]])
    """
    states = np.arange(len(matrix))[np.asarray(keep)]
    return normalize_rows(matrix[np.ix_(states, states)])


def conditioned(matrix: Array, frequencies: npt.ArrayLike) -> Array:
    """Weigh every step by how often its state is offered, and share the row anew.

    `R[i, j] = m[j] P[i, j] / sum_l m[l] P[i, l]`.

    Args:
        matrix: `(n, n)`.
        frequencies: m, `(n,)`, >= 0.

    Example:
        >>> conditioned(np.array([[.5, .25, .25], [.2, .6, .2], [1., 0, 0]]), [1, 1, 0])
        array([[0.66666667, 0.33333333, 0.        ],
               [0.25      , 0.75      , 0.        ],
               [1.        , 0.        , 0.        ]])
    """
    return normalize_rows(matrix * np.asarray(frequencies))


def column_normalized(matrix: Array) -> Array:
    """Chain that steps from a key to the queries that look at it.

    `C[j, i] = P[i, j] / c_j` with the column sums `c_j = sum_i P[i, j]`.

    Raises:
        NotStochasticError: No state steps to some state j, so `c_j` is zero.

    Example:
        >>> column_normalized(np.array([[.5, .5], [1., 0.]]))
        array([[0.33333333, 0.66666667],
               [1.        , 0.        ]])
    """
    return normalize_rows(matrix.T)


def reversed_(matrix: Array, pi: Array) -> Array:
    """Same chain with time running backwards: `R[i, j] = pi_j P[j, i] / (pi P)_i`.

    `pi P` is `pi`, but for the error of the given one: rows sum to one all the same.

    Sources:
        Levin and Peres, Markov Chains and Mixing Times, 2nd ed., equation 1.32.
    """
    return normalize_rows(matrix.T * pi)


def lazy(matrix: Array, holding: float = 0.5) -> Array:
    """Stay with some probability, else step: `h I + (1 - h) P`."""
    return holding * np.eye(len(matrix)) + (1 - holding) * matrix


def permuted(matrix: Array, order: npt.ArrayLike) -> Array:
    """Rename the states: `R[a, b] = P[order[a], order[b]]`."""
    order = np.asarray(order)
    return matrix[np.ix_(order, order)]
