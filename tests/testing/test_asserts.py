"""Assertions must fail on what they are there to catch."""

import pytest
import torch

from attnchain.operators import DenseTransition
from attnchain.testing import assert_adjoint, assert_distribution, assert_stochastic


class ForgetsTheTranspose(DenseTransition):
    """Pulls as it pushes: wrong unless the matrix is symmetric."""

    def _pull(self, observables):
        return self._push(observables)


class LosesMass(DenseTransition):
    def _pull(self, observables):
        return 0.99 * super()._pull(observables)


@pytest.fixture
def matrix():
    return torch.tensor([[0.9, 0.1], [0.5, 0.5]])


@pytest.mark.parametrize(
    "vector",
    [[0.5, 0.6], [1.1, -0.1], [float("nan"), 1.0], [float("inf"), 0.0]],
)
def test_what_is_no_distribution_fails(vector):
    with pytest.raises(AssertionError):
        assert_distribution(torch.tensor(vector))


def test_right_matrices_pass(matrix):
    assert_stochastic(matrix)
    assert_stochastic(DenseTransition(matrix))
    assert_adjoint(DenseTransition(matrix))


def test_a_row_off_by_more_than_the_tolerance_fails(matrix):
    with pytest.raises(AssertionError, match="sum off"):
        assert_stochastic(matrix + 1e-3)


def test_a_pull_that_loses_mass_fails(matrix):
    with pytest.raises(AssertionError):
        assert_stochastic(LosesMass(matrix))


def test_a_forgotten_transpose_fails(matrix):
    with pytest.raises(AssertionError, match="adjoint"):
        assert_adjoint(ForgetsTheTranspose(matrix))
