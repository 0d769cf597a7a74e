"""The closed formulas, against the matrices they come with."""

import math

import pytest
import torch

from attnchain.errors import ArgumentError
from attnchain.testing import assert_distribution, assert_stochastic, chains

ALL = {
    "two_state": chains.two_state(0.1, 0.3),
    "two_state_fast": chains.two_state(0.9, 0.8),
    "flip_flop": chains.two_state(1.0, 1.0),
    "frozen": chains.two_state(0.0, 0.0),
    "cycle_2": chains.cycle(2),
    "cycle_5": chains.cycle(5),
    "lazy_cycle": chains.lazy_cycle(6, 0.3),
    "birth_death": chains.birth_death(7, 0.3, 0.2),
    "birth_death_tight": chains.birth_death(4, 0.6, 0.4),
    "blocks": chains.block_diagonal(3, 4, 0.02),
    "leaky_blocks": chains.block_diagonal(2, 2, 0.9),
    "uncoupled": chains.block_diagonal(2, 3, 0.0),
    "rank_one": chains.rank_one(torch.tensor([0.25, 0.5, 0.25])),
    "absorbing": chains.absorbing_causal(5),
    "one_state": chains.absorbing_causal(1),
}


@pytest.fixture(params=ALL.values(), ids=ALL.keys())
def known(request):
    return request.param


def test_rows_are_distributions(known):
    assert known.matrix.dtype == torch.float64
    assert_stochastic(known.matrix, atol=1e-14)


def test_stationary_is_fixed_by_a_bounce(known):
    if known.stationary is not None:
        assert_distribution(known.stationary, atol=1e-14)
        torch.testing.assert_close(known.stationary @ known.matrix, known.stationary)


def test_eigenvalues_make_the_characteristic_polynomial_vanish(known):
    n = len(known.matrix)
    for value in known.eigenvalues:
        shifted = known.matrix - value * torch.eye(n, dtype=torch.float64)
        assert torch.linalg.svdvals(shifted)[-1] < 1e-12


def test_eigenvalues_add_up_to_the_trace_and_are_sorted(known):
    torch.testing.assert_close(
        known.eigenvalues.sum(), known.matrix.trace().to(torch.complex128)
    )
    assert (known.eigenvalues.abs().diff() <= 1e-15).all()


def test_reversible_chains_balance_every_pair(known):
    if known.irreducible:
        flow = known.stationary[:, None] * known.matrix
        assert torch.allclose(flow, flow.T, atol=1e-14) == known.reversible


def test_period_divides_every_return_time(known):
    powers = torch.eye(len(known.matrix), dtype=torch.float64)
    returns = []
    for bounces in range(1, 2 * len(known.matrix) + 1):
        powers = powers @ known.matrix
        if powers.diagonal().max() > 0:
            returns.append(bounces)
    assert math.gcd(*returns) == known.period


@pytest.mark.parametrize(
    "call",
    [
        lambda: chains.two_state(1.5, 0.1),
        lambda: chains.lazy_cycle(3, 1.0),
        lambda: chains.birth_death(3, 0.8, 0.4),
        lambda: chains.block_diagonal(1, 3),
        lambda: chains.block_diagonal(2, 3, -0.1),
    ],
)
def test_impossible_probabilities_are_refused(call):
    with pytest.raises(ArgumentError):
        call()
