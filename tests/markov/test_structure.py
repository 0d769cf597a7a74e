"""is_stochastic, is_irreducible, is_reversible, detailed_balance_error."""

import pytest
import torch
from tests.operators.builders import queries_and_keys, random_rows
from tests.operators.cases import CASES
from tests.testing.known import KNOWN

from attnchain import reference
from attnchain.errors import ArgumentError, ChainError, ShapeError
from attnchain.markov import (
    closed_classes,
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
    assert not is_stochastic(DenseTransition.trusted(torch.eye(2) * 0.9))


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


@pytest.mark.parametrize("budget", [None, "1000"], ids=["searched", "by products"])
@pytest.mark.parametrize("cut", [False, True])
def test_long_lines_are_walked_to_their_end(budget, cut, monkeypatch):
    matrix = chains.birth_death(700).matrix
    if cut:
        matrix[350, :350], matrix[350, 350] = 0, 0.7
    if budget is not None:
        monkeypatch.setenv("ATTNCHAIN_MEMORY_BUDGET", budget)
    assert is_irreducible(as_transition(matrix)) != cut


@pytest.mark.parametrize("given", [torch.eye(3), None])
def test_only_chains_are_assessed(given):
    pi = torch.full((3,), 1 / 3)
    for question in (is_stochastic, is_irreducible, closed_classes):
        with pytest.raises(ArgumentError, match=r"transition.*as_transition"):
            question(given)
    for question in (detailed_balance_error, is_reversible):
        with pytest.raises(ArgumentError, match=r"transition.*as_transition"):
            question(given, pi)


@pytest.mark.parametrize("pi", [torch.ones(3), torch.full((4,), 0.25), None, 0.5])
def test_detailed_balance_needs_a_distribution(pi):
    chain = as_transition(chains.cycle(3).matrix)
    with pytest.raises(ChainError, match="stationary"):
        is_reversible(chain, pi)


def test_detailed_balance_needs_one_distribution_for_each_chain():
    chain = as_transition(chains.cycle(3).matrix.expand(2, 3, 3))
    with pytest.raises(ShapeError, match="stationary"):
        detailed_balance_error(chain, torch.full((3, 3), 1 / 3))


@pytest.mark.parametrize("tolerance", [None, "small", float("nan"), -1.0])
def test_tolerances_are_positive_numbers(tolerance):
    chain, pi = as_transition(chains.cycle(3).matrix), torch.full((3,), 1 / 3)
    with pytest.raises(ArgumentError, match="tolerance"):
        is_stochastic(chain, tolerance=tolerance)
    with pytest.raises(ArgumentError, match="tolerance"):
        is_reversible(chain, pi, tolerance=tolerance)


def test_steps_that_only_single_precision_loses_are_steps():
    q, k = queries_and_keys(6, 4, dtype=torch.float32)
    mask = torch.zeros(6, 6)
    mask[:, 2] = -200
    chain = AttentionTransition(q, k, mask=mask)
    assert float(chain.to_dense()[:, 2].max()) == 0
    assert is_irreducible(chain)


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
