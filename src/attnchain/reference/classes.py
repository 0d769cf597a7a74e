"""Which states can reach which: communicating and closed classes."""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def _reachable(matrix: Array) -> npt.NDArray[np.bool_]:
    """Whether state j can be reached from state i in any number of steps, 0 too."""
    reach = np.eye(len(matrix), dtype=bool) | (matrix > 0)
    for k in range(len(matrix)):  # Warshall: paths that may pass through state k
        reach |= np.outer(reach[:, k], reach[k])
    return reach


def communicating_classes(matrix: Array) -> list[list[int]]:
    """Largest sets of states that reach one another, each in ascending order.

    Sources:
        Norris, Markov Chains, 1997, section 1.2.

    Example:
        >>> communicating_classes(np.array([[.5, .5, 0], [1, 0, 0], [0, .1, .9]]))
        [[0, 1], [2]]
    """
    reach = _reachable(matrix)
    mutual = reach & reach.T
    return [
        [int(j) for j in np.flatnonzero(row)]
        for i, row in enumerate(mutual)
        if i == np.flatnonzero(row)[0]
    ]


def closed_classes(matrix: Array) -> list[list[int]]:
    """Communicating classes that are never left.

    Every chain has at least one; it has one stationary distribution per closed class,
    and mixtures of these.

    Example:
        >>> closed_classes(np.array([[.5, .5, 0], [1, 0, 0], [0, .1, .9]]))
        [[0, 1]]
    """
    reach = _reachable(matrix)
    return [c for c in communicating_classes(matrix) if reach[c[0]].sum() == len(c)]


def is_irreducible(matrix: Array) -> bool:
    """Whether every state can reach every other one."""
    return bool(_reachable(matrix).all())
