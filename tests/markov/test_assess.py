"""is_stochastic, is_irreducible, is_reversible, detailed_balance_error."""

import pytest
import torch
from tests.operators.builders import random_rows
from tests.operators.cases import CASES
from tests.testing.known import KNOWN

from attnchain import reference
from attnchain.markov import (
    detailed_balance_error,
    is_irreducible,
    is_reversible,
    is_stochastic,
)
from attnchain.operators import (
    AttentionTransition,
    Damped,
    DenseTransition,
    Reversed,
    as_transition,
)
from attnchain.testing import chains


@pytest.fixture(params=KNOWN.values(), ids=KNOWN.keys())
def known(request):
    return request.param


@pytest.mark.parametrize("build", CASES.values(), ids=CASES.keys())
def test_every_operator_is_stochastic(build):
    transition, _ = build()
    assert is_stochastic(transition, tolerance=2e-3)
    assert not is_stochastic(DenseTransition(torch.eye(2) * 0.9, atol=0.2))


def test_irreducibility_is_known(known):
    assert is_irreducible(as_transition(known.matrix)) == known.irreducible


def test_damping_makes_every_chain_irreducible(known):
    assert is_irreducible(Damped(as_transition(known.matrix), 0.9))


def test_a_batch_is_irreducible_when_all_its_chains_are():
    good, bad = chains.cycle(4).matrix, torch.eye(4, dtype=torch.float64)
    assert is_irreducible(DenseTransition(torch.stack([good, good])))
    assert not is_irreducible(DenseTransition(torch.stack([good, bad])))


def test_a_long_way_round_is_still_a_way():
    assert is_irreducible(as_transition(chains.cycle(300).matrix))


def test_causal_attention_is_reducible():
    chain = AttentionTransition(torch.zeros(4, 1), torch.zeros(4, 1), causal=True)
    assert not is_irreducible(chain)


def test_reversibility_is_known(known):
    if known.irreducible:
        chain = as_transition(known.matrix)
        assert is_reversible(chain, known.stationary) == known.reversible


def test_detailed_balance_error_is_the_net_flow():
    matrix = random_rows(5, 5)
    pi = torch.from_numpy(reference.stationary(matrix))
    found = float(detailed_balance_error(as_transition(matrix), pi))
    assert found == pytest.approx(reference.detailed_balance_error(matrix))
    chain = as_transition(matrix)
    backwards = float(detailed_balance_error(Reversed(chain, pi), pi))
    assert backwards == pytest.approx(found)


def test_detailed_balance_error_of_a_batch():
    matrices = torch.stack([chains.cycle(3).matrix, torch.eye(3, dtype=torch.float64)])
    pi = torch.full((3,), 1 / 3)
    found = detailed_balance_error(DenseTransition(matrices), pi)
    torch.testing.assert_close(found.double(), torch.tensor([2.0, 0.0]).double())
