"""Mixture, Product, Power and Damped: what they refuse."""

import pytest
import torch

from attnchain.errors import ArgumentError, NotStochasticError, ShapeError
from attnchain.operators import Damped, DenseTransition, Mixture, Power, Product


@pytest.fixture
def heads():
    return DenseTransition(torch.eye(3).repeat(2, 1, 1))


@pytest.fixture
def single():
    return DenseTransition(torch.eye(3))


def test_weights_of_another_shape_are_refused(heads):
    with pytest.raises(ShapeError, match="batch shapes"):
        Mixture([heads], [torch.tensor([0.2, 0.3, 0.5])])
    with pytest.raises(ShapeError, match="batch shapes"):
        Mixture([heads], [])


@pytest.mark.parametrize("weights", [[0.5, 0.6], [1.5, -0.5], [float("nan"), 1.0]])
def test_weights_that_are_no_distribution_are_refused(heads, weights):
    with pytest.raises(NotStochasticError, match="weights"):
        Mixture([heads], [torch.tensor(weights)])


def test_all_weights_together_sum_to_one(heads, single):
    each_one = [torch.tensor([0.5, 0.5]), torch.tensor(1.0)]
    with pytest.raises(NotStochasticError, match="weights"):
        Mixture([heads, single], each_one)


@pytest.mark.parametrize("combine", [Product, lambda parts: Mixture(parts, parts)])
def test_nothing_to_combine_is_refused(combine):
    with pytest.raises(ArgumentError, match="at least one"):
        combine([])


def test_other_states_or_precision_are_refused(single):
    smaller = DenseTransition(torch.eye(2))
    wider = single.to(torch.float64)
    for other in (smaller, wider):
        with pytest.raises(ShapeError, match="number of states, dtype"):
            Product([single, other])
        with pytest.raises(ShapeError, match="number of states, dtype"):
            Mixture([single, other], [torch.tensor(0.5)] * 2)


def test_factors_with_other_batches_are_refused(heads, single):
    with pytest.raises(ShapeError, match="one shape"):
        Product([heads, single])


@pytest.mark.parametrize("exponent", [0, -1, 1.5, float("nan"), True, "2"])
def test_powers_are_positive_whole_numbers(single, exponent):
    with pytest.raises(ArgumentError, match="whole number"):
        Power(single, exponent)


@pytest.mark.parametrize("damping", [0.0, -0.1, 1.1, float("nan"), "0.9", None])
def test_damping_outside_zero_to_one_is_refused(single, damping):
    with pytest.raises(ArgumentError, match="damping"):
        Damped(single, damping)


@pytest.mark.parametrize(
    "v", [[0.5, 0.6, 0.0], [1.5, -0.5, 0.0], [0.0, 0.0, 0.0], [float("nan"), 1, 0]]
)
def test_personalization_that_is_no_distribution_is_refused(single, v):
    with pytest.raises(NotStochasticError, match="personalization"):
        Damped(single, 0.9, torch.tensor(v))


@pytest.mark.parametrize("shape", [(4,), (3, 3), ()])
def test_personalization_of_another_shape_is_refused(heads, shape):
    with pytest.raises(ShapeError, match="personalization"):
        Damped(heads, 0.9, torch.full(shape, 1 / 3))


def test_a_list_is_no_personalization(single):
    with pytest.raises(ArgumentError, match="tensor"):
        Damped(single, 0.9, [1.0, 0.0, 0.0])


def test_damping_leaves_the_jump_of_wide_chains_unrounded(single):
    damped = Damped(single, 0.9).to(torch.float64)
    rows = damped.to_dense().sum(-1)
    torch.testing.assert_close(rows, torch.ones_like(rows), atol=1e-12, rtol=0)
