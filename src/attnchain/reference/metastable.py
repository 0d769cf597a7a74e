"""Metastable sets from the leading right invariant subspace (PCCA+ without search)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.linalg

from attnchain.errors import ReducibleChainError, ShapeError
from attnchain.reference.classes import is_irreducible
from attnchain.reference.limits import stationary
from attnchain.reference.spectrum import eigenvalues

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Metastable:
    """Sets in which a chain stays long.

    Attributes:
        memberships: `(n, m)`, nonnegative, rows sum to one.
        labels: `(n,)`, the set of largest membership.
        coarse: `(m, m)`, the chain between the sets.
        prevalence: `(m,)`, stationary mass of each set.
        retention: `(m,)`, probability of staying in the crisp set for one bounce.
    """

    memberships: Array
    labels: npt.NDArray[np.intp]
    coarse: Array
    prevalence: Array
    retention: Array


def invariant_subspace(matrix: Array, count: int) -> Array:
    """Basis of the right invariant subspace of the `count` leading eigenvalues.

    The first column is constant and the columns are orthonormal under `pi`, which
    fixes the basis up to a rotation of the others. It comes from a real Schur form
    `P = Q S Q^T` whose leading block holds the eigenvalues of largest modulus:
    eigenvectors themselves may be complex or nearly parallel.

    Args:
        matrix: `(n, n)`, irreducible.
        count: Number of eigenvalues m, with multiplicity.

    Returns:
        `(n, m)`.

    Raises:
        ShapeError: `count` would part eigenvalues of the same modulus.
        ReducibleChainError: `pi` is not unique, or zero somewhere.

    Sources:
        Reuter et al., Generalized Markov State Modeling Method for Nonequilibrium
        Biomolecular Dynamics, J. Chem. Theory Comput. 14, 2018, section 3.
    """
    pi = stationary(matrix)
    if not is_irreducible(matrix):
        raise ReducibleChainError(
            "Expected an irreducible chain; some states are never returned to. "
            "Damp the chain or restrict it to its closed class."
        )
    moduli = np.append(np.abs(eigenvalues(matrix)), 0.0)
    smallest = moduli[count - 1]
    if count < len(matrix) and smallest - moduli[count] < 1e-12:
        raise ShapeError(
            f"Expected a gap after {count} eigenvalues; numbers {count} and "
            f"{count + 1} have the same modulus {smallest:g}. Ask for one more or less."
        )
    edge = 0.5 * (smallest + moduli[count])
    vectors = scipy.linalg.schur(
        matrix, sort=lambda re, im: bool(np.hypot(re, im) > edge)
    )[1]
    root = np.sqrt(pi)[:, None]
    weighted = root * vectors[:, :count]
    others = weighted - root @ (root.T @ weighted)
    directions = np.linalg.svd(others, full_matrices=False)[0][:, : count - 1]
    return np.hstack([root, directions]) / root


def _vertices(basis: Array) -> list[int]:
    """States at the corners of the simplex spanned by the rows (inner simplex).

    The row farthest from the origin, then again and again the row farthest from the
    affine hull of those already chosen.
    """
    chosen = [int(np.argmax(np.linalg.norm(basis, axis=1)))]
    rest = basis - basis[chosen[0]]
    for _ in range(basis.shape[1] - 1):
        chosen.append(int(np.argmax(np.linalg.norm(rest, axis=1))))
        direction = rest[chosen[-1]] / np.linalg.norm(rest[chosen[-1]])
        rest = rest - np.outer(rest @ direction, direction)
    return chosen


def memberships(basis: Array) -> Array:
    """Turn an invariant subspace into memberships `M = X A`.

    A is chosen so that the corner states belong to one set each, `A = X_corners^-1`.
    Where that makes memberships negative, A is changed as little as its other columns
    allow: `A[i, 0] = -sum_j A[i, j]` for `i >= 1` makes the rows of M sum to a
    constant, `A[0, j] = -min_s sum_{i >= 1} X[s, i] A[i, j]` makes M nonnegative,
    and A is divided by the sum of its first row.

    Args:
        basis: `(n, m)` with a constant first column of ones.

    Returns:
        `(n, m)`, nonnegative, rows sum to one.

    Sources:
        Weber and Galliat, Characterization of Transition States in Conformational
        Dynamics using Fuzzy Sets, ZIB report 02-12, 2002 (inner simplex);
        Deuflhard and Weber, Robust Perron Cluster Analysis in Conformation Dynamics,
        Linear Algebra Appl. 398, 2005 (feasible A). The search for the crispest A
        that follows there is left out.

    Example:
        >>> memberships(np.array([[1.0, -1.0], [1.0, 0.0], [1.0, 1.0]]))
        array([[1. , 0. ],
               [0.5, 0.5],
               [0. , 1. ]])
    """
    if basis.shape[1] == 1:
        return np.ones_like(basis)
    rotation = np.linalg.inv(basis[_vertices(basis)])
    rotation[1:, 0] = -rotation[1:, 1:].sum(axis=1)
    rotation[0] = -(basis[:, 1:] @ rotation[1:]).min(axis=0)
    return np.maximum(basis @ (rotation / rotation[0].sum()), 0.0)


def metastable_sets(matrix: Array, count: int) -> Metastable:
    """Sets in which the chain stays long.

    With `D = diag(pi)`: `coarse = (M^T D M)^-1 M^T D P M`, `prevalence = pi M`, and
    for a crisp set S, `retention = sum_{i, j in S} pi_i P[i, j] / sum_{i in S} pi_i`.

    Args:
        matrix: `(n, n)`, irreducible.
        count: Number of sets m.

    Raises:
        ShapeError: `count` would part eigenvalues of the same modulus.
        ReducibleChainError: `pi` is not unique, or zero somewhere.

    Sources:
        Kube and Weber, A Coarse Graining Method for the Identification of Transition
        Rates between Molecular Conformations, J. Chem. Phys. 126, 2007 (coarse chain).
    """
    soft = memberships(invariant_subspace(matrix, count))
    pi = stationary(matrix)
    labels = soft.argmax(axis=1)
    crisp = np.eye(count)[labels]
    flow = np.diag(pi) @ matrix
    return Metastable(
        memberships=soft,
        labels=labels,
        coarse=np.linalg.inv(soft.T @ np.diag(pi) @ soft) @ soft.T @ flow @ soft,
        prevalence=pi @ soft,
        retention=np.diag(crisp.T @ flow @ crisp) / (pi @ crisp),
    )
