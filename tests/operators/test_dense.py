"""DenseTransition checks rows and repairs nothing."""

import pytest
import torch

from attnchain.errors import ArgumentError, NotStochasticError, ShapeError
from attnchain.operators import DenseTransition


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[0.5, 0.4], [0.5, 0.5]], r"row \(0,\) sums to 0.9"),
        ([[0.5, 0.5], [0.6, 0.5]], r"row \(1,\) sums to 1.1"),
        ([[1.1, -0.1], [0.5, 0.5]], "smallest entry is -0.1"),
        ([[float("nan"), 0.5], [0.5, 0.5]], "not a number"),
        ([[float("inf"), 0.5], [0.5, 0.5]], "infinite"),
    ],
)
def test_rows_that_are_no_distributions_are_refused(matrix, message):
    with pytest.raises(NotStochasticError, match=message):
        DenseTransition(torch.tensor(matrix))


def test_the_remedy_is_named():
    with pytest.raises(NotStochasticError, match="normalize_rows"):
        DenseTransition(torch.ones(2, 2))


def test_the_chain_of_a_batch_is_named():
    batch = torch.eye(2).repeat(3, 1, 1)
    batch[2, 1, 1] = 0.5
    with pytest.raises(NotStochasticError, match=r"row \(2, 1\)"):
        DenseTransition(batch)


@pytest.mark.parametrize("shape", [(2, 3), (4,), (), (0, 0), (3, 2, 1)])
def test_what_is_not_square_is_refused(shape):
    with pytest.raises(ShapeError, match="square"):
        DenseTransition(torch.zeros(shape))


def test_numbers_that_are_no_real_floats_are_refused():
    with pytest.raises(ShapeError, match="floating"):
        DenseTransition(torch.eye(2, dtype=torch.long))
    with pytest.raises(ShapeError, match="floating"):
        DenseTransition(torch.eye(2, dtype=torch.complex64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rounded_softmax_rows_are_accepted(dtype):
    rows = torch.randn(50, 300, 300).softmax(-1).to(dtype)
    assert DenseTransition(rows).dtype == torch.float32


@pytest.mark.parametrize(
    ("dtype", "off"),
    [
        (torch.float64, 1e-3),
        (torch.float32, 1e-3),
        (torch.float16, 0.02),
        (torch.bfloat16, 0.1),
    ],
)
def test_the_tolerance_is_that_of_the_precision(dtype, off):
    matrix = torch.tensor([[0.5, 0.5 - off], [0.5, 0.5]], dtype=dtype)
    with pytest.raises(NotStochasticError):
        DenseTransition(matrix)


def test_a_tolerance_of_ones_own():
    matrix = torch.tensor([[0.5, 0.45], [0.5, 0.5]])
    assert DenseTransition(matrix, atol=0.1).to_dense()[0, 1] == matrix[0, 1] / 0.95
    with pytest.raises(NotStochasticError):
        DenseTransition(matrix, atol=0.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_rows_are_divided_by_their_sums_in_double_precision(dtype):
    rows = torch.randn(20, 20, generator=torch.Generator().manual_seed(0)).softmax(-1)
    given = rows.to(dtype)
    exact = given.double() / given.double().sum(-1, keepdim=True)
    chain = DenseTransition(given)
    assert chain.matrix.double().equal(given.double())
    wide = chain.to(torch.float64)
    torch.testing.assert_close(wide.to_dense(), exact, atol=1e-16, rtol=0)
    again = DenseTransition.trusted(given.float()).to(torch.float64)
    torch.testing.assert_close(again.to_dense(), exact, atol=1e-16, rtol=0)


@pytest.mark.parametrize("atol", [0, -1.0, float("nan"), "1e-3"])
def test_a_tolerance_is_a_positive_number(atol):
    with pytest.raises(ArgumentError, match="atol"):
        DenseTransition(torch.eye(2), atol=atol)
