"""mix: heads and layers to one chain, by weights of three kinds."""

import math

import numpy as np
import pytest
import torch
from tests.operators.builders import attention, queries_and_keys, random_rows

from attnchain import reference
from attnchain.errors import ArgumentError, NotStochasticError, ShapeError
from attnchain.markov import mix, second_eigenvalue
from attnchain.operators import (
    AttentionTransition,
    DenseTransition,
    Mixture,
    Product,
    as_transition,
)
from attnchain.testing import assert_adjoint, assert_stochastic, chains


@pytest.fixture
def heads():
    return attention(*queries_and_keys(4, 10, 6, size=2.0))


@pytest.mark.parametrize("exponent", [0.5, 1.0, 3.0])
def test_heads_are_weighted_by_their_second_eigenvalue(heads, exponent):
    transition, twins = heads
    weights = reference.lambda2_weights(list(twins), exponent)
    found = mix(transition, exponent=exponent)
    expected = reference.mixture(list(twins), weights)
    np.testing.assert_allclose(found.to_dense(), expected, atol=1e-4)


def test_uniform_weights_average(heads):
    transition, twins = heads
    np.testing.assert_allclose(
        mix(transition, "uniform").to_dense(), twins.mean(0), atol=1e-12
    )


def test_exponent_zero_is_uniform(heads):
    transition, twins = heads
    found = mix(transition, exponent=0.0).to_dense()
    np.testing.assert_allclose(found, twins.mean(0), atol=1e-12)


def test_own_weights(heads):
    transition, twins = heads
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    expected = reference.mixture(list(twins), weights.numpy())
    np.testing.assert_allclose(
        mix(transition, weights).to_dense(), expected, atol=1e-12
    )


@pytest.mark.parametrize("weights", ["uniform", "lambda2"])
def test_layers_of_different_head_counts_share_one_sum(weights):
    matrices = random_rows(5, 6, 6)
    layers = [as_transition(matrices[:2]), as_transition(matrices[2:])]
    apart = [as_transition(m) for m in matrices]
    found = mix(layers, weights)
    assert isinstance(found, Mixture)
    assert found.batch_shape == ()
    torch.testing.assert_close(found.to_dense(), mix(apart, weights).to_dense())
    assert_stochastic(found, atol=1e-12)
    assert_adjoint(found)


def test_batches_of_several_axes_are_mixed_whole():
    matrices = random_rows(2, 3, 5, 5)
    found = mix(as_transition(matrices), "uniform").to_dense()
    np.testing.assert_allclose(found, matrices.reshape(6, 5, 5).mean(0))


def test_slow_heads_weigh_more():
    slow, fast = chains.two_state(0.01, 0.01).matrix, chains.two_state(0.4, 0.4).matrix
    found = mix(DenseTransition(torch.stack([slow, fast])))
    weights = found.weights[0]
    torch.testing.assert_close(
        weights[0] / weights[1], torch.tensor(0.98 / 0.2).double()
    )


def test_known_moduli_are_not_solved_for_again(heads, monkeypatch):
    transition = heads[0]
    expected = mix(transition, exponent=2.0)
    moduli = second_eigenvalue(transition).modulus
    monkeypatch.setattr("attnchain.markov.mixture.second_eigenvalue", None)
    found = mix(transition, lambda2=[moduli], exponent=2.0)
    assert torch.equal(found.weights[0], expected.weights[0])


def test_heads_that_forget_at_once_leave_nothing_to_weigh():
    flat = DenseTransition(torch.full((2, 3, 3), 1 / 3, dtype=torch.float64))
    found = mix(flat, "uniform")
    torch.testing.assert_close(found.to_dense(), flat.to_dense()[0])


@pytest.mark.parametrize("bad", [[0.5, 0.5, 0.5, 0.5], [-0.5, 0.5, 0.5, 0.5]])
def test_weights_that_are_no_distribution_are_refused(heads, bad):
    with pytest.raises(NotStochasticError, match="weights"):
        mix(heads[0], torch.tensor(bad))


def test_weights_of_another_shape_are_refused(heads):
    with pytest.raises(ShapeError, match="weights"):
        mix(heads[0], torch.tensor([0.5, 0.5]))


def test_unknown_weights_are_refused(heads):
    with pytest.raises(ArgumentError, match="lambda2"):
        mix(heads[0], "entropy")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [20, 150, 300])
def test_a_second_eigenvalue_within_its_error_of_zero_is_zero(n, dtype):
    gen = torch.Generator().manual_seed(n)
    q = torch.ones(4, n, 8, dtype=dtype)
    k = 2 * torch.randn(4, n, 8, generator=gen).to(dtype)
    equal_rows = AttentionTransition(q, k)
    with pytest.raises(ArgumentError, match="forgets its start"):
        mix(equal_rows)
    q[0] = 2 * torch.randn(n, 8, generator=gen).to(dtype)
    torch.testing.assert_close(
        mix(AttentionTransition(q, k)).weights[0],
        torch.tensor([1, 0, 0, 0], dtype=torch.float64),
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize("exponent", ["3", None, 1j, math.nan, math.inf])
def test_an_exponent_that_is_no_number_is_refused(heads, exponent):
    with pytest.raises(ArgumentError, match="exponent"):
        mix(heads[0], exponent=exponent)


@pytest.mark.parametrize("given", [None, 3, np.eye(3), torch.eye(3)])
@pytest.mark.parametrize("question", [mix, Product, lambda x: Mixture(x, [])])
def test_what_is_no_chain_is_refused(question, given):
    with pytest.raises(ArgumentError, match="transition"):
        question(given)


def test_nothing_to_mix_is_refused():
    with pytest.raises(ArgumentError, match="at least one"):
        mix([], "uniform")
