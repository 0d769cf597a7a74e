"""Bounces, stationary distributions and TokenRank by direct linear algebra."""

from typing import Literal

import numpy as np
import numpy.typing as npt

from attnchain.errors import ReducibleChainError
from attnchain.reference.classes import closed_classes, is_irreducible
from attnchain.reference.matrices import column_normalized, damped, normalize_rows

Array = npt.NDArray[np.float64]
Direction = Literal["incoming", "outgoing"]


def propagate(
    matrix: Array,
    start: npt.ArrayLike,
    bounces: int,
    *,
    direction: Direction = "incoming",
) -> Array:
    """Distributions after 0, 1, ..., `bounces` bounces, one per row.

    Incoming: `v_t = v_0 P^t`. Outgoing: `v_t = v_0 C^t` with the column-normalised
    chain `C`.

    Args:
        matrix: `(n, n)`.
        start: Distribution `v_0`, `(n,)`.
        bounces: Number of bounces.
        direction: Incoming starts as row select, outgoing as column select.

    Example:
        >>> propagate(np.array([[.5, .5], [1., 0.]]), [1, 0], 2)
        array([[1.  , 0.  ],
               [0.5 , 0.5 ],
               [0.75, 0.25]])
    """
    matrix = normalize_rows(matrix)
    chain = matrix if direction == "incoming" else column_normalized(matrix)
    vectors = [np.asarray(start, np.float64)]
    for _ in range(bounces):
        vectors.append(vectors[-1] @ chain)
    return np.stack(vectors)


def stationary_distributions(matrix: Array) -> Array:
    """One stationary distribution per closed class, as rows.

    On a closed class with matrix B, `pi` solves `pi (B - I) = 0` and `pi 1 = 1`; one of
    the first equations follows from the others and is replaced by the last.

    Sources:
        Stewart, Introduction to the Numerical Solution of Markov Chains, 1994,
        section 2.3.

    Example:
        >>> stationary_distributions(np.array([[1, 0, 0], [0, .5, .5], [0, 1, 0]]))
        array([[1.        , 0.        , 0.        ],
               [0.        , 0.66666667, 0.33333333]])
    """
    matrix = normalize_rows(matrix)
    classes = closed_classes(matrix)
    result = np.zeros((len(classes), len(matrix)))
    for row, states in zip(result, classes, strict=True):
        equations = (matrix[np.ix_(states, states)] - np.eye(len(states))).T
        equations[-1] = 1.0
        right_side = np.zeros(len(states))
        right_side[-1] = 1.0
        row[states] = np.linalg.solve(equations, right_side)
    return result


def stationary(matrix: Array) -> Array:
    """Stationary distribution `pi = pi P`, when there is only one.

    Raises:
        ReducibleChainError: The chain has more than one closed class.

    Example:
        >>> stationary(np.array([[.5, .5], [1., 0.]]))
        array([0.66666667, 0.33333333])
    """
    found = stationary_distributions(matrix)
    if len(found) > 1:
        raise ReducibleChainError(
            f"Expected one closed class, found {len(found)}: the stationary "
            "distribution is not unique. Damp the chain or restrict it to one class."
        )
    return found[0]


def token_rank(
    matrix: Array,
    damping: float = 0.99,
    *,
    direction: Direction = "incoming",
    personalization: npt.ArrayLike | None = None,
) -> Array:
    """Stationary distribution of the damped chain, or of its column-normalised form.

    With `T = damping P + (1 - damping) 1 v^T`, incoming is `pi = pi T`; outgoing is
    `u = L u` with `L = T diag(column sums of T)^-1`, that is `u = u L^T`.

    Sources:
        Erel et al., Attention (as Discrete-Time Markov) Chains, arXiv 2507.17657; the
        authors' code damps first and normalises columns afterwards.

    Example:
        >>> token_rank(np.array([[.5, .5], [1., 0.]]), 1.0)
        array([0.66666667, 0.33333333])
    """
    chain = damped(normalize_rows(matrix), damping, personalization)
    return stationary(chain if direction == "incoming" else column_normalized(chain))


def detailed_balance_error(matrix: Array) -> float:
    """Sum of the net flows between states: `sum_ij |pi_i P[i, j] - pi_j P[j, i]|`.

    Zero for reversible chains, at most 2.
    """
    flow = np.diag(stationary(matrix)) @ matrix
    return float(np.abs(flow - flow.T).sum())


def is_reversible(matrix: Array, *, tolerance: float = 1e-10) -> bool:
    """Whether the chain is irreducible and in detailed balance with its pi."""
    return is_irreducible(matrix) and detailed_balance_error(matrix) <= tolerance
