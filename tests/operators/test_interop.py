"""Ways in and out: as_transition, normalize_rows, to_scipy."""

import numpy as np
import pytest
import torch
from tests.operators.builders import random_rows

from attnchain.errors import ArgumentError, NotStochasticError, ShapeError
from attnchain.operators import (
    DenseTransition,
    as_transition,
    normalize_rows,
)


def test_a_transition_is_passed_through():
    chain = DenseTransition(torch.eye(2))
    assert as_transition(chain) is chain


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arrays_and_tensors_are_taken_in_their_precision(dtype):
    matrix = random_rows(3, 3).astype(dtype)
    from_array = as_transition(matrix)
    from_tensor = as_transition(torch.from_numpy(matrix))
    assert str(from_array.dtype) == str(from_tensor.dtype) == f"torch.{dtype}"
    np.testing.assert_array_equal(from_array.to_dense(), matrix)


@pytest.mark.parametrize("given", ["chain", None, {"a": 1}, [["x"]]])
def test_what_is_no_matrix_is_refused(given):
    with pytest.raises(ArgumentError, match="tensor or an array"):
        as_transition(given)


def test_integers_and_weights_are_refused():
    with pytest.raises(ShapeError, match="floating"):
        as_transition(np.eye(2, dtype=int))
    with pytest.raises(NotStochasticError, match="normalize_rows"):
        as_transition(np.ones((2, 2)))


def test_normalised_weights_are_stochastic():
    weights = torch.rand(2, 5, 5).half()
    rows = normalize_rows(weights)
    assert rows.dtype == torch.float32
    expected = weights.double() / weights.double().sum(-1, keepdim=True)
    torch.testing.assert_close(rows.double(), expected, atol=1e-6, rtol=0)
    as_transition(rows)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([[1.0, -1.0], [1.0, 1.0]], ">= 0"),
        ([[1.0, 1.0], [0.0, 0.0]], r"row \[1\] sums to zero"),
        ([[1.0, float("nan")], [1.0, 1.0]], "not a number"),
    ],
)
def test_weights_that_cannot_be_normalised_are_refused(weights, message):
    with pytest.raises(NotStochasticError, match=message):
        normalize_rows(torch.tensor(weights))


def test_integer_weights_are_refused():
    with pytest.raises(ShapeError, match="floating"):
        normalize_rows(torch.ones(2, 2, dtype=torch.long))
