"""explained_bounce: closed form, the dense twin, laws, and what it refuses."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.operators.builders import attention, queries_and_keys

from attnchain import reference
from attnchain.errors import ArgumentError, ReducibleChainError, ShapeError
from attnchain.markov import explained_bounce, stationary
from attnchain.operators import Damped, DenseTransition, as_transition
from attnchain.testing import chains
from attnchain.testing.strategies import positive_matrices


def reversible(n, seed):
    weights = np.random.default_rng(seed).random((n, n)) ** 4
    weights = weights + weights.T
    return weights / weights.sum(1, keepdims=True)


def closed_form(matrix, k, t):
    powers = np.sort(np.abs(np.linalg.eigvals(matrix)))[::-1] ** (2 * t)
    return 1 - powers[k:].sum() / powers[1:].sum()


def truncated(matrix, ks, t):
    """Shares by sums over eigenvectors of the chain, as written in the definition."""
    values, right = np.linalg.eig(matrix)
    left = np.linalg.inv(right)
    order = np.argsort(-np.abs(values))
    pi = reference.stationary(matrix)

    def norm(a):
        return (pi[:, None] * np.abs(a) ** 2 / pi).sum()

    after = np.linalg.matrix_power(matrix, t)
    kept = [order[:k] for k in ks]
    sums = [(right[:, i] * values[i] ** t) @ left[i] for i in kept]
    return [1 - norm(after - one) / norm(after - pi) for one in sums]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("t", [1, 3, 20])
def test_a_reversible_chain_has_the_closed_form(seed, t):
    matrix = reversible(30, seed)
    found = explained_bounce(as_transition(torch.from_numpy(matrix)), range(1, 31), t)
    expected = [closed_form(matrix, k, t) for k in range(1, 31)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_norm_that_spectral_truncation_leaves(seed):
    """The definition, from eigenvectors of the chain itself, n = 30, t = 3."""
    matrix = reversible(30, seed)
    expected = truncated(matrix, (1, 3, 8, 30), 3)
    found = explained_bounce(as_transition(torch.from_numpy(matrix)), (1, 3, 8, 30), 3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_eigenvectors_of_a_chain_that_is_not_reversible_would_not_do():
    """Their sums are oblique: one more of them may carry less, even less than none."""
    rows = [[50, 28, 12, 10], [1, 4, 78, 17], [15, 4, 59, 22], [18, 1, 15, 66]]
    matrix = np.array(rows) / 100
    oblique = truncated(matrix, range(1, 5), 1)
    assert oblique[1] < -2
    curve = explained_bounce(as_transition(torch.from_numpy(matrix)), range(1, 5), 1)
    assert bool((curve.diff() > 0).all())


@pytest.mark.parametrize("known", [chains.birth_death(9), chains.block_diagonal(3, 4)])
def test_known_eigenvalues(known):
    powers = known.eigenvalues.abs()[1:] ** 8
    expected = torch.cat([torch.zeros(1), powers.cumsum(0) / powers.sum()])
    n = len(known.matrix)
    found = explained_bounce(DenseTransition(known.matrix), range(1, n + 1), 4)
    torch.testing.assert_close(found, expected.double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("t", [1, 2, 7])
def test_attention_agrees_with_the_dense_twin_and_its_batch_axes(t):
    """Not reversible, with complex pairs, of which k may cut one in half."""
    transition, twins = attention(*queries_and_keys(3, 12, 6, size=2.0))
    assert max(np.abs(np.linalg.eigvals(m).imag).max() for m in twins) > 1e-3
    found = explained_bounce(transition, range(1, 13), t)
    assert found.shape == (3, 12)
    expected = [
        [reference.explained_bounce(m, k, t) for k in range(1, 13)] for m in twins
    ]
    np.testing.assert_allclose(found, expected, atol=1e-8)
    torch.testing.assert_close(explained_bounce(transition, 4, t), found[:, 3])


@given(matrix=positive_matrices(max_states=7), t=st.integers(1, 60))
def test_more_modes_never_carry_less(matrix, t):
    curve = explained_bounce(DenseTransition(matrix), range(1, len(matrix) + 1), t)
    assert bool((curve.diff() >= 0).all())
    assert 0 <= float(curve[0]) <= float(curve[-1]) == pytest.approx(1)


@given(matrix=positive_matrices(min_states=2, max_states=7), t=st.integers(1, 3))
def test_what_is_lost_is_what_the_modes_do_not_see(matrix, t):
    """One minus the share is the least any projection on them could lose."""
    n = len(matrix)
    pi = stationary(DenseTransition(matrix)).distribution
    after = torch.linalg.matrix_power(matrix, t)
    total = (pi[:, None] * (after - pi).square() / pi).sum()
    if float(total) < 1e-12:
        return
    curve = explained_bounce(DenseTransition(matrix), range(1, n + 1), t)
    root = pi.sqrt()
    spread = torch.linalg.svdvals(root[:, None] * (after - pi) / root).square()
    best = torch.cat([torch.zeros(1).double(), spread.cumsum(0)[: n - 1]]) / total
    assert bool((curve <= best + 1e-7).all())


def test_nothing_left_is_all_carried():
    even = chains.rank_one(torch.tensor([0.2, 0.3, 0.5]))
    assert explained_bounce(DenseTransition(even.matrix), range(1, 4), 2).eq(1).all()
    assert float(explained_bounce(DenseTransition(torch.ones(1, 1)), 1, 1)) == 1
    bits = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1.0]]) / 2
    shift = DenseTransition(bits.double())  # two coin throws forget everything
    assert float(explained_bounce(shift, 1, 1)) == 0
    assert float(explained_bounce(shift, 1, 2)) == 1


def test_a_cycle_keeps_everything_in_equal_parts():
    found = explained_bounce(DenseTransition(chains.cycle(6).matrix), range(1, 7), 5)
    torch.testing.assert_close(found, torch.linspace(0, 1, 6).double())


def test_many_bounces_do_not_underflow():
    matrix = reversible(12, 0)
    found = explained_bounce(as_transition(torch.from_numpy(matrix)), 2, 100_000)
    assert float(found) == pytest.approx(1, abs=1e-9)


def test_damping_takes_the_same_from_all_modes():
    """Uniform pi and teleport: every eigenvalue but the 1 is scaled alike."""
    chain = DenseTransition(chains.lazy_cycle(7, 0.3).matrix)
    curves = [explained_bounce(c, range(1, 8), 3) for c in (chain, Damped(chain, 0.9))]
    torch.testing.assert_close(*curves)


def test_single_precision_is_taken_as_given():
    matrix = torch.from_numpy(reversible(10, 1)).float()
    divided = matrix.double() / matrix.double().sum(-1, keepdim=True)
    found = explained_bounce(DenseTransition(matrix), 3, 2)
    assert found.dtype == torch.float64
    assert torch.equal(found, explained_bounce(DenseTransition(divided), 3, 2))


@pytest.mark.parametrize(
    ("k", "t", "words"),
    [
        (0, 1, "k must lie in 1..3"),
        (4, 1, "k must lie in 1..3"),
        (2.0, 1, "k must lie"),
        (True, 1, "k must lie"),
        ([1, 4], 1, "k must lie"),
        ([], 1, "empty"),
        (2, 0, "t must be"),
        (2, 1.5, "t must be"),
        (2, float("nan"), "t must be"),
    ],
)
def test_arguments_are_checked(k, t, words):
    chain = DenseTransition(chains.birth_death(3).matrix)
    with pytest.raises(ArgumentError, match=words):
        explained_bounce(chain, k, t)


def test_matrices_are_no_chains():
    with pytest.raises(ArgumentError, match="as_transition"):
        explained_bounce(torch.eye(2), 1, 1)


@pytest.mark.parametrize("known", [chains.absorbing_causal(4), chains.two_state(0, 0)])
def test_chains_without_a_positive_pi_are_refused(known):
    with pytest.raises(ReducibleChainError, match="damp"):
        explained_bounce(DenseTransition(known.matrix), 1, 1)


def test_what_cannot_be_stored_is_refused(monkeypatch):
    monkeypatch.setenv("ATTNCHAIN_MEMORY_BUDGET", "100")
    transition, _ = attention(*queries_and_keys(1, 12, 6))
    with pytest.raises(ShapeError, match="12 x 12"):
        explained_bounce(transition, 1, 1)
