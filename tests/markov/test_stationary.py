"""stationary: known answers, solvers, certificates, failures."""

import dataclasses

import numpy as np
import pytest
import torch
from tests.operators.builders import queries_and_keys, random_rows

from attnchain import reference
from attnchain.errors import (
    ArgumentError,
    ConvergenceError,
    NumericalWarning,
    ReducibleChainError,
    ToleranceError,
)
from attnchain.markov import Outcome, stationary
from attnchain.operators import (
    AttentionTransition,
    ColumnNormalized,
    Damped,
    DenseTransition,
    as_transition,
)
from attnchain.testing import assert_distribution, chains

KNOWN = {
    "two_state": chains.two_state(0.1, 0.3),
    "flip_flop": chains.two_state(1.0, 1.0),
    "cycle": chains.cycle(5),
    "lazy_cycle": chains.lazy_cycle(6, 0.3),
    "birth_death": chains.birth_death(7, 0.3, 0.2),
    "metastable": chains.block_diagonal(3, 4, 1e-4),
    "rank_one": chains.rank_one(torch.tensor([0.25, 0.5, 0.25])),
    "one_state": chains.absorbing_causal(1),
}
SOLVERS = ["auto", "power", "anderson", "direct"]


def distance(found, expected):
    return float(np.abs(found.distribution.numpy() - np.asarray(expected)).sum())


@pytest.mark.parametrize("known", KNOWN.values(), ids=KNOWN.keys())
def test_known_chains(known):
    found = stationary(as_transition(known.matrix))
    assert_distribution(found.distribution, atol=1e-12)
    assert distance(found, known.stationary) <= min(float(found.error_bound), 1e-6)
    assert found.outcome is Outcome.CONVERGED


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("outgoing", [False, True], ids=["incoming", "outgoing"])
@pytest.mark.parametrize("known", KNOWN.values(), ids=KNOWN.keys())
def test_solvers_agree_on_damped_chains(known, outgoing, solver):
    chain = Damped(as_transition(known.matrix), 0.9)
    direction = "outgoing" if outgoing else "incoming"
    expected = reference.token_rank(known.matrix.numpy(), 0.9, direction=direction)
    found = stationary(ColumnNormalized(chain) if outgoing else chain, solver=solver)
    assert distance(found, expected) <= float(found.error_bound) <= 1e-6


@pytest.mark.parametrize("solver", ["auto", "anderson", "direct"])
def test_slow_chains_at_heavy_damping(solver):
    matrix = chains.block_diagonal(3, 5, 1e-6).matrix
    v = torch.linspace(1, 2, 15, dtype=torch.float64)
    v = v / v.sum()
    found = stationary(Damped(as_transition(matrix), 0.999, v), solver=solver)
    expected = reference.token_rank(matrix.numpy(), 0.999, personalization=v)
    assert distance(found, expected) <= float(found.error_bound) <= 1e-6


@pytest.mark.parametrize("solver", ["auto", "anderson"])
@pytest.mark.parametrize("outgoing", [False, True], ids=["incoming", "outgoing"])
def test_chains_too_large_to_store(monkeypatch, outgoing, solver):
    monkeypatch.setenv("ATTNCHAIN_MEMORY_BUDGET", "1000")
    q, k = queries_and_keys(300, 8, size=2.0, dtype=torch.float32)
    chain = Damped(AttentionTransition(q, k), 0.99)
    found = stationary(ColumnNormalized(chain) if outgoing else chain, solver=solver)
    expected = reference.token_rank(
        reference.attention(q.double().numpy(), k.double().numpy()),
        direction="outgoing" if outgoing else "incoming",
    )
    assert distance(found, expected) <= float(found.error_bound) <= 1e-6


def test_the_answer_is_that_of_the_given_half_precision_numbers():
    q, k = queries_and_keys(50, 8, dtype=torch.bfloat16)
    found = stationary(Damped(AttentionTransition(q, k), 0.99))
    exact = reference.attention(q.double().numpy(), k.double().numpy())
    assert distance(found, reference.token_rank(exact)) <= float(found.error_bound)


def test_batches_are_solved_chain_by_chain():
    chain = Damped(DenseTransition(torch.from_numpy(random_rows(2, 3, 5, 5))), 0.9)
    found = stationary(chain)
    assert found.distribution.shape == (2, 3, 5)
    for field in ("error_bound", "residual", "iterations", "products"):
        assert getattr(found, field).shape == (2, 3)
    alone = stationary(chain[1, 2])
    torch.testing.assert_close(found.distribution[1, 2], alone.distribution)


def test_the_residual_is_the_change_of_one_more_bounce():
    chain = Damped(as_transition(random_rows(6, 6)), 0.9)
    found = stationary(chain, solver="power", tolerance=1e-3)
    change = (chain.push(found.distribution) - found.distribution).abs().sum()
    torch.testing.assert_close(found.residual, change, atol=1e-14, rtol=1e-6)


def test_results_are_frozen_and_count_their_cost():
    found = stationary(Damped(as_transition(random_rows(6, 6)), 0.9), solver="power")
    assert int(found.iterations) > 5
    assert int(found.products) >= int(found.iterations)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.outcome = Outcome.STALLED


def test_damping_by_nothing_is_the_chain_itself():
    known = chains.birth_death(5)
    found = stationary(Damped(as_transition(known.matrix), 1.0))
    assert distance(found, known.stationary) <= 1e-6


def test_a_jump_to_one_token_leaves_unreachable_ones_at_zero():
    chain = as_transition(chains.absorbing_causal(4).matrix)
    v = torch.tensor([0, 1.0, 0, 0], dtype=torch.float64)
    found = stationary(Damped(chain, 0.9, v))
    expected = reference.token_rank(chain.to_dense().numpy(), 0.9, personalization=v)
    assert distance(found, expected) <= float(found.error_bound)
    torch.testing.assert_close(found.distribution[2:], torch.zeros(2).double())


REDUCIBLE = {
    "uncoupled": chains.block_diagonal(2, 3, 0.0),
    "frozen": chains.two_state(0.0, 0.0),
    "one_way": chains.two_state(0.2, 0.0),
    "absorbing": chains.absorbing_causal(4),
}


@pytest.mark.parametrize("known", REDUCIBLE.values(), ids=REDUCIBLE.keys())
def test_reducible_chains_without_damping_are_refused(known):
    with pytest.raises(ReducibleChainError, match=r"[Dd]amp"):
        stationary(as_transition(known.matrix))
    found = stationary(Damped(as_transition(known.matrix), 0.9))
    expected = reference.token_rank(known.matrix.numpy(), 0.9)
    assert distance(found, expected) <= 1e-6


def test_reducible_column_normalised_chains_are_refused():
    chain = as_transition(chains.block_diagonal(2, 3, 0.0).matrix)
    with pytest.raises(ReducibleChainError):
        stationary(ColumnNormalized(chain))


@pytest.fixture
def slow():
    return Damped(as_transition(chains.birth_death(40).matrix), 0.99)


@pytest.mark.parametrize("solver", ["power", "anderson"])
def test_too_few_iterations_raise_with_the_unfinished_result(slow, solver):
    with pytest.raises(ConvergenceError, match="max_iterations") as caught:
        stationary(slow, solver=solver, max_iterations=3)
    unfinished = caught.value.result
    assert unfinished.outcome is Outcome.ITERATION_LIMIT
    assert unfinished.iterations.max() <= 3
    expected = reference.token_rank(slow.base.to_dense().numpy())
    assert distance(unfinished, expected) <= float(unfinished.error_bound)
    assert_distribution(unfinished.distribution)


def test_failure_can_warn_or_return(slow):
    options = {"solver": "power", "max_iterations": 3}
    with pytest.warns(NumericalWarning):
        warned = stationary(slow, on_failure="warn", **options)
    returned = stationary(slow, on_failure="return", **options)
    assert warned.outcome is returned.outcome is Outcome.ITERATION_LIMIT


def test_one_failing_chain_of_a_batch_is_a_failure():
    matrices = torch.stack([chains.birth_death(40).matrix, torch.eye(40).double()])
    chain = Damped(DenseTransition(matrices), 0.99)
    with pytest.raises(ConvergenceError):
        stationary(chain, solver="power", max_iterations=20)


def test_a_tolerance_below_rounding_is_refused(slow):
    with pytest.raises(ToleranceError, match="certifies at best"):
        stationary(slow, tolerance=1e-18)


@pytest.mark.parametrize("tolerance", [0.0, -1e-6, float("nan")])
def test_tolerances_are_positive(slow, tolerance):
    with pytest.raises(ArgumentError, match="tolerance"):
        stationary(slow, tolerance=tolerance)


@pytest.mark.parametrize(
    "options",
    [{"solver": "jacobi"}, {"on_failure": "ignore"}, {"max_iterations": 0}],
    ids=lambda o: next(iter(o)),
)
def test_unknown_options_are_refused(slow, options):
    with pytest.raises(ArgumentError, match=next(iter(options))):
        stationary(slow, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"tolerance": "small"},
        {"tolerance": None},
        {"tolerance": float("inf")},
        {"max_iterations": float("inf")},
        {"max_iterations": float("nan")},
        {"max_iterations": None},
        {"solver": None},
        {"solver": np.array([1, 2])},
        {"start": "uniform"},
        {"start": 0},
        {"on_failure": 3},
    ],
    ids=str,
)
def test_options_of_another_kind_are_named(slow, options):
    with pytest.raises(ArgumentError, match=next(iter(options))):
        stationary(slow, **options)


@pytest.mark.parametrize("damping", [None, "0.9", [], float("nan"), np.array([0.9])])
def test_damping_is_a_number(damping):
    with pytest.raises(ArgumentError, match="damping"):
        stationary(Damped(as_transition(torch.eye(2)), damping))


@pytest.mark.parametrize("given", [torch.eye(3), None, "chain", [[1.0]]], ids=str)
def test_only_chains_are_solved(given):
    with pytest.raises(ArgumentError, match=r"transition.*as_transition"):
        stationary(given)


def test_sets_that_are_hardly_ever_left_are_answered():
    matrix = (40 * torch.eye(8, dtype=torch.float64)).softmax(1)
    found = stationary(DenseTransition(matrix))
    assert distance(found, np.full(8, 1 / 8)) <= float(found.error_bound) <= 1e-6


def test_a_chain_reducible_to_rounding_is_named():
    matrix = (700 * torch.eye(8, dtype=torch.float64)).softmax(1)
    with pytest.raises(ReducibleChainError, match="rounding"):
        stationary(DenseTransition(matrix))


def test_classes_and_states_that_are_passed_through_are_named():
    chain = as_transition(chains.absorbing_causal(4).matrix)
    with pytest.raises(ReducibleChainError, match=r"state 0\) and 3 state\(s\)"):
        stationary(chain)


def out_of_reach(n, pads):
    """Tokens that see each other, then pads that see themselves alone."""
    mask = torch.zeros(n, n, dtype=torch.bool)
    mask[: n - pads, : n - pads] = True
    mask.diagonal().fill_(True)
    chain = AttentionTransition(*queries_and_keys(n, 4), mask=mask)
    v = torch.zeros(n, dtype=torch.float64)
    v[: n - pads] = 1 / (n - pads)
    return ColumnNormalized(Damped(chain, 0.9, v))


@pytest.mark.parametrize("n", [6, 300])
@pytest.mark.parametrize("solver", [*SOLVERS, "gmres"])
def test_outgoing_rank_ends_in_the_one_padded_token(n, solver):
    found = stationary(out_of_reach(n, 1), solver=solver)
    expected = torch.zeros(n).double()
    expected[-1] = 1
    assert distance(found, expected) <= float(found.error_bound) <= 1e-6


@pytest.mark.parametrize("n", [6, 300])
@pytest.mark.parametrize("solver", [*SOLVERS, "gmres"])
def test_outgoing_rank_of_several_padded_tokens_is_refused(n, solver):
    with pytest.raises(ReducibleChainError, match="2 closed classes"):
        stationary(out_of_reach(n, 2), solver=solver)


def test_outgoing_rank_of_unreached_tokens_too_many_to_store_is_refused(monkeypatch):
    chain = out_of_reach(30, 1)
    monkeypatch.setenv("ATTNCHAIN_MEMORY_BUDGET", "1000")
    with pytest.raises(ReducibleChainError, match="personalization"):
        stationary(chain)


@pytest.mark.parametrize("n", [6, 300])
def test_outgoing_rank_from_the_last_token_of_causal_attention(n):
    chain = AttentionTransition(*queries_and_keys(n, 4, size=0.5), causal=True)
    v = torch.zeros(n, dtype=torch.float64)
    v[-1] = 1
    found = stationary(ColumnNormalized(Damped(chain, 0.9, v)))
    expected = reference.token_rank(
        chain.to_dense().numpy(), 0.9, direction="outgoing", personalization=v
    )
    assert distance(found, expected) <= float(found.error_bound) + 1e-10
    assert float(found.error_bound) <= 1e-6


@pytest.mark.parametrize("nats", [-36.0, -100.0, -200.0, -600.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_undamped_rank_with_a_token_nobody_looks_at(nats, dtype):
    q, k = queries_and_keys(6, 4, dtype=dtype)
    mask = torch.zeros(6, 6, dtype=dtype)
    mask[:, 2] = nats
    found = stationary(AttentionTransition(q, k, mask=mask))
    rows = reference.attention(q.double().numpy(), k.double().numpy(), mask=mask)
    expected = reference.stationary(rows)
    assert distance(found, expected) <= float(found.error_bound) + 1e-14
    entered = float(torch.from_numpy(expected @ rows)[2])
    assert float(found.distribution[2]) == pytest.approx(entered, rel=1e-9)
