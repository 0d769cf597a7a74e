"""Restricted, ColumnNormalized, Reversed, Lazy and Permuted: what they refuse."""

import pytest
import torch

from attnchain.errors import ArgumentError, NotStochasticError, ShapeError
from attnchain.operators import (
    AttentionTransition,
    ColumnNormalized,
    Conditioned,
    Damped,
    DenseTransition,
    Lazy,
    Mixture,
    Permuted,
    Power,
    Product,
    Restricted,
    Reversed,
    forward_backward,
    stored,
    to_scipy,
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
        "first",
        None,
    ],
)
def test_states_that_cannot_be_kept_are_refused(chain, keep):
    with pytest.raises(ArgumentError, match="keep"):
        Restricted(chain, keep)


def test_a_state_that_always_leaves_the_kept_ones_is_refused(chain):
    restricted = Restricted(chain, torch.tensor([0]))
    for ask in (restricted.to_dense, lambda: restricted.push(torch.ones(1))):
        with pytest.raises(NotStochasticError, match="state 0 never steps"):
            ask()


def test_a_state_nothing_looks_at_has_no_column_to_normalise(chain):
    normalized = ColumnNormalized(chain)
    for ask in (normalized.to_dense, lambda: normalized.pull(torch.ones(3))):
        with pytest.raises(NotStochasticError, match=r"state 0.*Damp"):
            ask()


def test_a_column_too_small_for_single_precision_is_refused_not_a_nan():
    # Entered 90 nats less than others: below the smallest normal float32.
    keys = torch.tensor([[-90.0], [0.0], [0.0]])
    chain = AttentionTransition(torch.ones(3, 1), keys, scale=1.0)
    with pytest.raises(NotStochasticError, match="state 0"):
        ColumnNormalized(chain).push(torch.tensor([1.0, 0.0, 0.0]))
    wide = ColumnNormalized(chain.to(torch.float64))
    found = wide.push(torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(found, torch.full((3,), 1 / 3).double())


def test_conditioning_needs_a_distribution_that_every_state_steps_into(chain):
    with pytest.raises(NotStochasticError, match="frequencies must be a distribution"):
        Conditioned(chain, torch.tensor([0.5, 0.5, 0.5]))
    with pytest.raises(ShapeError, match="frequencies"):
        Conditioned(chain, torch.tensor([0.5, 0.5]))
    with pytest.raises(ShapeError, match="does not fit"):
        Conditioned(chain, torch.full((2, 3), 1 / 3))
    identity = DenseTransition(torch.eye(3))
    missing = Conditioned(identity, torch.tensor([0.5, 0.5, 0.0]))
    for ask in (lambda: missing.push(torch.ones(3)), missing.to_dense):
        with pytest.raises(NotStochasticError, match=r"state 2 .*Restricted"):
            ask()


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


@pytest.mark.parametrize("order", [[0, 1], [0, 0, 2], [1, 2, 3], [[0, 1, 2]], "012"])
def test_an_order_that_is_no_permutation_is_refused(chain, order):
    with pytest.raises(ArgumentError, match="permutation"):
        Permuted(chain, order)


COMBINE = {
    "Damped": Damped,
    "Restricted": lambda p: Restricted(p, [0]),
    "ColumnNormalized": ColumnNormalized,
    "Conditioned": lambda p: Conditioned(p, torch.tensor([0.5, 0.5])),
    "Reversed": lambda p: Reversed(p, torch.tensor([0.5, 0.5])),
    "Lazy": Lazy,
    "Permuted": lambda p: Permuted(p, [1, 0]),
    "Power": lambda p: Power(p, 2),
    "Product": lambda p: Product([p]),
    "Mixture": lambda p: Mixture([p], [torch.tensor(1.0)]),
    "forward_backward": forward_backward,
    "stored": stored,
    "to_scipy": to_scipy,
}


@pytest.mark.parametrize("combine", COMBINE.values(), ids=COMBINE.keys())
def test_a_matrix_is_no_transition(combine):
    with pytest.raises(ArgumentError, match="as_transition"):
        combine(torch.eye(2))
