"""Damped stationary distributions, against NetworkX PageRank."""

import networkx
import numpy as np
import pytest
import torch
from tests.operators.builders import random_rows

from attnchain.markov import stationary
from attnchain.operators import Damped, as_transition

STOP = 1e-14
"""NetworkX stops once the L1 change of n states is below n * STOP."""


def networkx_error(n, damping):
    """L1 error that stopping rule allows: change times damping / (1 - damping)."""
    return n * STOP * damping / (1 - damping)


def pagerank(matrix, damping, personalization=None):
    graph = networkx.from_numpy_array(matrix, create_using=networkx.DiGraph)
    chosen = None if personalization is None else dict(enumerate(personalization))
    ranks = networkx.pagerank(
        graph, alpha=damping, personalization=chosen, tol=STOP, max_iter=10_000
    )
    return np.array([ranks[i] for i in range(len(matrix))])


@pytest.mark.parametrize("damping", [0.5, 0.85, 0.99])
@pytest.mark.parametrize("zeros", [False, True], ids=["full", "with_zeros"])
def test_uniform_teleport(damping, zeros):
    matrix = random_rows(30, 30, zeros=zeros)
    found = stationary(Damped(as_transition(matrix), damping))
    error = np.abs(found.distribution.numpy() - pagerank(matrix, damping)).sum()
    assert float(found.error_bound) <= 1e-6
    assert error <= float(found.error_bound) + networkx_error(30, damping)


@pytest.mark.parametrize("solver", ["auto", "anderson", "power"])
def test_personalised_teleport(solver):
    matrix = random_rows(30, 30, zeros=True)
    v = np.zeros(30)
    v[[3, 7, 8]] = [0.5, 0.25, 0.25]
    chain = Damped(as_transition(matrix), 0.85, torch.from_numpy(v))
    found = stationary(chain, solver=solver)
    error = np.abs(found.distribution.numpy() - pagerank(matrix, 0.85, v)).sum()
    assert float(found.error_bound) <= 1e-6
    assert error <= float(found.error_bound) + networkx_error(30, 0.85)
