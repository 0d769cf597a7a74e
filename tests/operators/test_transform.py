"""Restricted, ColumnNormalized, Reversed, Lazy and Permuted: what they refuse."""

import pytest
import torch

from attnchain.errors import ArgumentError, NotStochasticError, ShapeError
from attnchain.operators import (
    ColumnNormalized,
    DenseTransition,
    Lazy,
    Permuted,
    Restricted,
    Reversed,
)


@pytest.fixture
def chain():
    return DenseTransition(torch.tensor([[0.0, 0.5, 0.5], [0.0, 1, 0], [0, 0.2, 0.8]]))


@pytest.mark.parametrize(
    "keep",
    [
        torch.tensor([], dtype=torch.long),
        torch.zeros(3, dtype=torch.bool),
        torch.ones(4, dtype=torch.bool),
        torch.tensor([0, 3]),
        torch.tensor([-1]),
        torch.tensor([1, 1]),
        torch.tensor([[0, 1]]),
        torch.tensor([0.0, 1.0]),
    ],
)
def test_states_that_cannot_be_kept_are_refused(chain, keep):
    with pytest.raises(ShapeError, match="keep"):
        Restricted(chain, keep)


def test_a_state_that_always_leaves_the_kept_ones_is_refused(chain):
    with pytest.raises(NotStochasticError, match="state 0 never steps"):
        Restricted(chain, torch.tensor([0]))


def test_a_state_nothing_looks_at_has_no_column_to_normalise(chain):
    with pytest.raises(NotStochasticError, match=r"state 0.*Damp"):
        ColumnNormalized(chain)


def test_reversal_needs_a_positive_distribution(chain):
    with pytest.raises(NotStochasticError, match="zeros"):
        Reversed(chain, torch.tensor([0.0, 1.0, 0.0]))
    with pytest.raises(NotStochasticError, match="distribution"):
        Reversed(chain, torch.tensor([0.5, 0.5, 0.5]))
    with pytest.raises(ShapeError, match="stationary"):
        Reversed(chain, torch.tensor([0.5, 0.5]))
    with pytest.raises(ShapeError, match="does not fit"):
        Reversed(chain, torch.full((2, 3), 1 / 3))


def test_reversal_needs_the_stationary_distribution_of_this_chain():
    chain = DenseTransition(torch.tensor([[0.9, 0.1], [0.5, 0.5]]))
    with pytest.raises(NotStochasticError, match="stationary"):
        Reversed(chain, torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize("holding", [-0.1, 1.1, float("nan")])
def test_holding_is_a_probability(chain, holding):
    with pytest.raises(ArgumentError, match="holding"):
        Lazy(chain, holding)


@pytest.mark.parametrize("order", [[0, 1], [0, 0, 2], [1, 2, 3], [[0, 1, 2]]])
def test_an_order_that_is_no_permutation_is_refused(chain, order):
    with pytest.raises(ShapeError, match="permutation"):
        Permuted(chain, torch.tensor(order))
