"""Small generated tables."""

import numpy as np


def gaussian(n=4, rows=40, seed=0):
    """A chain of weak linear effects, so that many classes keep some weight."""
    rng = np.random.default_rng(seed)
    table = rng.standard_normal((rows, n))
    for node in range(1, n):
        table[:, node] += 0.5 * table[:, node - 1]
    return table


def discrete(n=4, rows=60, seed=0):
    """Columns of 2 and 3 states, each a noisy copy of the one before."""
    rng = np.random.default_rng(seed)
    table = np.stack([rng.integers(2 + node % 2, size=rows) for node in range(n)], 1)
    copied = rng.random((rows, n)) < 0.3
    for node in range(1, n):
        table[:, node] = np.where(
            copied[:, node], np.minimum(table[:, node - 1], 1), table[:, node]
        )
    return table
