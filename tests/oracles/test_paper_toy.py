"""The five states of the paper's project page, printed and recomputed numbers."""

import pytest
import torch

from attnchain.markov import propagate, second_eigenvalue, spectrum, stationary
from attnchain.operators import ColumnNormalized, Damped, as_transition
from attnchain.testing import paper_toy

PRINTED = 0.006
"""Rounding to two digits, and that of the matrix entries behind it."""
RECOMPUTED = 6e-5


@pytest.fixture
def toy():
    return paper_toy()


@pytest.fixture
def chain(toy):
    return as_transition(toy.matrix)


def assert_near(found, expected, allowed):
    torch.testing.assert_close(found.double(), expected, atol=allowed, rtol=0)


def test_bounces_from_state_four(toy, chain):
    found = propagate(chain, 4, 2, all_bounces=True)
    assert_near(found, toy.from_state_4, PRINTED)


def test_bounces_from_everywhere(toy, chain):
    found = propagate(chain, range(5), 2, all_bounces=True)
    assert_near(found, toy.from_uniform, PRINTED)


def test_stationary_distribution_as_printed(toy, chain):
    # .27 is printed where the two-digit entries give .278.
    assert_near(stationary(chain).distribution, toy.stationary, 0.01)


def test_stationary_distribution_as_recomputed(toy, chain):
    assert_near(stationary(chain).distribution, toy.undamped, RECOMPUTED)


def test_incoming_token_rank(toy, chain):
    found = stationary(Damped(chain, 0.99)).distribution
    assert_near(found, toy.incoming, RECOMPUTED)


def test_outgoing_token_rank_without_damping(toy, chain):
    found = stationary(ColumnNormalized(chain)).distribution
    assert_near(found, toy.outgoing, RECOMPUTED)


def test_the_column_sum_and_token_rank_disagree_about_the_first_place(chain):
    assert int(propagate(chain, range(5), 1).argmax()) == 0
    assert int(stationary(chain).distribution.argmax()) == 4


def test_the_second_eigenvalue_is_one_of_a_complex_pair(toy, chain):
    found = second_eigenvalue(chain)
    assert_near(found.modulus, toy.moduli[1], RECOMPUTED)
    assert_near(found.eigenvalue.real, torch.tensor(-0.2775).double(), RECOMPUTED)
    assert_near(found.eigenvalue.imag, torch.tensor(0.5613).double(), RECOMPUTED)


def test_damping_scales_the_second_eigenvalue(toy, chain):
    found = second_eigenvalue(Damped(chain, 0.99))
    assert_near(found.modulus, 0.99 * toy.moduli[1], RECOMPUTED)


def test_all_eigenvalues(toy, chain):
    assert_near(spectrum(chain, 5).eigenvalues.abs(), toy.moduli, RECOMPUTED)
