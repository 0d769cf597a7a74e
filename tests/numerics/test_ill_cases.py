"""Inputs at the edge: the right result or an error that names the cause."""

import pytest
import torch
from tests.operators.builders import queries_and_keys

from attnchain.errors import NotStochasticError, ShapeError
from attnchain.markov import second_eigenvalue, stationary
from attnchain.operators import AttentionTransition, Damped

BACKENDS = pytest.mark.parametrize("backend", ["dense", "tiled"])
V = torch.full((6,), 1 / 6)


@BACKENDS
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_masks_that_are_no_numbers_are_named(backend, value):
    q, k = queries_and_keys(6, 3)
    mask = torch.zeros(6, 6).double()
    mask[2, 4] = value
    with pytest.raises(NotStochasticError, match=r"row 2 has scores.*in the mask"):
        AttentionTransition(q, k, mask=mask, backend=backend).push(V)


@BACKENDS
def test_half_precision_masks_of_the_most_negative_number_hide_their_keys(backend):
    q, k = (x.half() for x in queries_and_keys(6, 3))
    mask = torch.zeros(6, 6).half()
    mask[:, 1] = torch.finfo(torch.float16).min
    pushed = AttentionTransition(q, k, mask=mask, backend=backend).push(V)
    assert float(pushed[1]) == 0
    torch.testing.assert_close(pushed.sum(), torch.tensor(1.0))


@BACKENDS
@pytest.mark.parametrize("size", [1e2, 1e4, 1e5])
def test_huge_scores_make_one_hot_rows(backend, size):
    q = torch.eye(6) * size
    pulled = AttentionTransition(q, torch.eye(6), scale=1.0, backend=backend).pull(
        torch.arange(6.0)
    )
    torch.testing.assert_close(pulled, torch.arange(6.0))


@BACKENDS
def test_scores_beyond_single_precision_are_named_and_held_by_double(backend):
    q, k = (1e25 * x for x in queries_and_keys(6, 3))
    with pytest.raises(NotStochasticError, match=r"overflow.*float64"):
        AttentionTransition(q.float(), k.float(), backend=backend).push(V)
    rows = AttentionTransition(q, k, backend=backend).pull(V)
    torch.testing.assert_close(rows, V.double())


def test_overflow_of_half_precision_features_is_named():
    q, k = queries_and_keys(6, 3, dtype=torch.float32)
    with pytest.raises(NotStochasticError, match="overflow in the model"):
        AttentionTransition((1e5 * q).half(), k.half())


@pytest.mark.parametrize("shape", [(0, 6, 3), (2, 0, 3), (6, 0)])
def test_no_heads_tokens_or_features_are_refused(shape):
    with pytest.raises(ShapeError, match="at least one state"):
        AttentionTransition(torch.zeros(shape), torch.zeros(shape))


@pytest.mark.parametrize("n", [1, 2])
def test_the_smallest_chains(n):
    q, k = queries_and_keys(3, n, 4)
    heads = AttentionTransition(q, k)
    found = stationary(Damped(heads)).distribution
    torch.testing.assert_close(found.sum(-1), torch.ones(3).double())
    trace = heads.to_dense().diagonal(dim1=-2, dim2=-1).sum(-1)
    expected = torch.zeros(3).double() if n == 1 else (trace - 1).abs()
    torch.testing.assert_close(second_eigenvalue(heads).modulus, expected)
