"""Stationary distributions and eigenvalues, against SciPy, dense and sparse."""

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse.linalg
import torch
from tests.operators.builders import queries_and_keys

from attnchain.markov import second_eigenvalue, spectrum, stationary
from attnchain.operators import (
    AttentionTransition,
    ColumnNormalized,
    Damped,
    Mixture,
    to_scipy,
)


def mixed_heads(n, dtype=torch.float64):
    q, k = queries_and_keys(4, n, 8, size=1.2, dtype=dtype)
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=dtype)
    return Mixture([AttentionTransition(q, k, backend="tiled")], [weights])


def left_eigenvector(matrix):
    values, vectors = scipy.linalg.eig(matrix, left=True, right=False)
    vector = vectors[:, np.argmax(values.real)].real
    return vector / vector.sum()


@pytest.mark.parametrize("solver", ["auto", "anderson", "power"])
def test_incoming_token_rank_is_the_left_eigenvector(solver):
    chain = Damped(mixed_heads(60), 0.99)
    found = stationary(chain, solver=solver)
    expected = left_eigenvector(chain.to_dense().numpy())
    error = np.abs(found.distribution.numpy() - expected).sum()
    assert error <= float(found.error_bound) <= 1e-6


@pytest.mark.parametrize("solver", ["auto", "anderson", "power"])
def test_outgoing_token_rank_is_the_right_eigenvector_over_column_sums(solver):
    chain = Damped(mixed_heads(60), 0.9)
    found = stationary(ColumnNormalized(chain), solver=solver)
    dense = chain.to_dense().numpy()
    columns = dense / dense.sum(axis=0)
    values, vectors = scipy.linalg.eig(columns)
    vector = vectors[:, np.argmax(values.real)].real
    error = np.abs(found.distribution.numpy() - vector / vector.sum()).sum()
    assert error <= float(found.error_bound) <= 1e-6


def test_undamped_stationary_distribution_is_the_left_eigenvector():
    chain = mixed_heads(60)
    found = stationary(chain)
    expected = left_eigenvector(chain.to_dense().numpy())
    error = np.abs(found.distribution.numpy() - expected).sum()
    assert error <= float(found.error_bound) <= 1e-6


def test_the_spectrum_is_that_of_arpack_on_the_exported_operator():
    chain = mixed_heads(80)
    start = np.random.default_rng(0).normal(size=80)
    expected = scipy.sparse.linalg.eigs(
        to_scipy(chain), k=7, which="LM", v0=start, return_eigenvectors=False
    )
    expected = expected[np.argsort(-np.abs(expected))][:6]
    found = spectrum(chain, 6, tolerance=1e-8).eigenvalues.numpy()
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-7)
    np.testing.assert_allclose(
        np.sort_complex(found.round(9)), np.sort_complex(expected.round(9)), atol=1e-7
    )


def test_the_second_eigenvalue_is_that_of_lapack():
    chain = mixed_heads(80, torch.float32)
    values = scipy.linalg.eigvals(chain.to_dense().double().numpy())
    expected = np.sort(np.abs(values))[-2]
    found = second_eigenvalue(chain, tolerance=1e-5)
    assert abs(float(found.modulus) - expected) <= 1e-5


def test_arpack_finds_the_stationary_distribution_through_rmatvec():
    chain = Damped(mixed_heads(50), 0.9)
    operator = to_scipy(chain)
    transposed = scipy.sparse.linalg.aslinearoperator(operator).T
    start = np.ones(50)
    _, vectors = scipy.sparse.linalg.eigs(transposed, k=1, which="LM", v0=start)
    vector = vectors[:, 0].real
    found = stationary(chain).distribution.numpy()
    np.testing.assert_allclose(found, vector / vector.sum(), atol=1e-9)
