"""Eigenvalues of every kind of chain against dense float64, within their estimates."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.operators.builders import random_rows

from attnchain.errors import ConvergenceError, NumericalWarning
from attnchain.markov import (
    leading_subspaces,
    mix,
    second_eigenvalue,
    spectral_gap,
    spectrum,
)
from attnchain.markov.solvers.krylov import _orthonormal
from attnchain.markov.solvers.schur import ordered_schur
from attnchain.operators import (
    AttentionTransition,
    Damped,
    DenseTransition,
    Permuted,
    as_transition,
)
from attnchain.testing import chains

AROUND_THE_SWITCHES = [2, 60, 120, 121, 122, 129, 150, 240, 300, 513]
DTYPES = [torch.float16, torch.float32, torch.float64]


def divided(chain):
    """The matrix of the given numbers in float64, rows divided by their sums."""
    matrix = chain.to(torch.float64).to_dense().numpy()
    return matrix / matrix.sum(-1, keepdims=True)


def moduli(matrix):
    """Of all eigenvalues but one 1, largest first: LAPACK with balancing."""
    values = np.linalg.eigvals(matrix)
    return np.sort(abs(np.delete(values, abs(values - 1).argmin())))[::-1]


def assert_second_is(chain, expected, slack=1e-12):
    found = second_eigenvalue(chain)
    error = abs(float(found.eigenvalue.abs()) - expected)
    assert error <= float(found.error_estimate) + slack
    assert error <= 1e-4
    assert float(found.modulus) <= 1


def attention_of(kind, n, dtype, backend):
    numbers = torch.Generator().manual_seed(n)
    k = torch.randn(n, 8, generator=numbers)
    q = {
        "uniform": torch.zeros(n, 8),
        "equal rows": torch.ones(n, 8),
        "one direction": torch.randn(n, 1, generator=numbers) * torch.ones(8),
        "random": 2 * torch.randn(n, 8, generator=numbers),
    }[kind]
    return AttentionTransition(q.to(dtype), k.to(dtype), backend=backend)


@pytest.mark.parametrize("backend", ["dense", "tiled"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["uniform", "equal rows", "one direction", "random"])
@pytest.mark.parametrize("n", AROUND_THE_SWITCHES)
def test_attention_of_low_rank(n, kind, dtype, backend):
    chain = attention_of(kind, n, dtype, backend)
    assert_second_is(chain, moduli(divided(chain))[0], slack=1e-6)


@pytest.mark.parametrize("nats", [0.0, 5.0, 25.0, 36.0, 80.0, 200.0])
@pytest.mark.parametrize("n", [60, 121, 150, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_sink_of_any_height(n, nats, dtype):
    q = torch.randn(n, 8, generator=torch.Generator().manual_seed(n), dtype=dtype)
    q, k = q.clone(), 0.5 * q
    q[:, 0], k[:, 0] = 1, 0
    k[n // 3, 0] = nats
    chain = AttentionTransition(q, k, scale=1.0)
    assert_second_is(chain, moduli(divided(chain))[0], slack=1e-7)


@pytest.mark.parametrize("score", [1.0, 8.0, 16.0, 30.0, 60.0, 1_600.0])
@pytest.mark.parametrize("n", [121, 129, 300])
def test_heads_that_look_at_themselves(n, score):
    eye = score**0.5 * torch.eye(n)
    away = 1 / (np.exp(min(score, 700.0)) + n - 1)
    chain = AttentionTransition(eye, eye, scale=1.0)
    assert_second_is(chain, 1 - n * away, slack=1e-7)


@pytest.mark.parametrize("rank", [1, 2, 3, 7])
@pytest.mark.parametrize("n", [122, 129, 260, 520])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_stored_matrices_of_low_rank(n, rank, dtype):
    given = random_rows(n, rank, seed=rank) @ random_rows(rank, n, seed=n)
    chain = DenseTransition(torch.from_numpy(given).to(dtype))
    assert_second_is(chain, moduli(divided(chain))[0])


def transient(n, entered):
    """Ten last states that are hardly or never entered, and slow to leave."""
    matrix = random_rows(n, n)
    matrix[:, -10:] *= entered
    matrix[-10:] = 0.2 * matrix[-10:]
    matrix[-10:, -10:] += 0.5 * np.eye(10)
    return matrix / matrix.sum(-1, keepdims=True)


def shift(n):
    """All move on by one, the last stays: one Jordan block of size n - 1 for 0."""
    matrix = np.eye(n, k=1)
    matrix[-1, -1] = 1
    return matrix


def driven(blocks, size, stay):
    labels = np.arange(blocks * size) // size
    ahead = (labels[:, None] + 1) % blocks == labels
    return (stay * (labels[:, None] == labels) + (1 - stay) * ahead) / size


def two_sided(n):
    """Every bounce changes sides."""
    half, matrix = n // 2, np.zeros((n, n))
    matrix[:half, half:] = random_rows(half, n - half, seed=1)
    matrix[half:, :half] = random_rows(n - half, half, seed=2)
    return matrix


KINDS = {
    "nilpotent": (shift(150), 0.0),
    "transient": (transient(150, 0.0), None),
    "nearly transient": (transient(150, 1e-16), None),
    "seldom entered": (transient(150, 1e-6), None),
    "identity": (np.eye(130), 1.0),
    "near identity": (0.999 * np.eye(130) + 0.001 * random_rows(130, 130), None),
    "repeated": (chains.block_diagonal(11, 13, 0.02).matrix.numpy(), 1 - 0.022),
    "uncoupled": (chains.block_diagonal(3, 45, 0.0).matrix.numpy(), 1.0),
    "anti-coupled": (chains.block_diagonal(2, 70, 0.6).matrix.numpy(), 0.2),
    "coupled at one half": (chains.block_diagonal(2, 70, 0.5).matrix.numpy(), 0.0),
    "driven blocks": (driven(6, 25, 0.9), None),
    "cycle": (chains.cycle(600).matrix.numpy(), 1.0),
    "odd cycle": (chains.cycle(137).matrix.numpy(), 1.0),
    "lazy cycle": (chains.lazy_cycle(300, 0.3).matrix.numpy(), None),
    "two-sided": (two_sided(200), 1.0),
    "lower triangular": (
        np.tril(np.ones((140, 140))) / np.arange(1, 141)[:, None],
        0.5,
    ),
}


@pytest.mark.parametrize("permuted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_structured_chains_in_any_order_of_tokens(kind, permuted):
    matrix, expected = KINDS[kind]
    if expected is None:
        expected = moduli(matrix)[0]
    if permuted:
        order = np.random.default_rng(0).permutation(len(matrix))
        matrix = matrix[np.ix_(order, order)]
    assert_second_is(as_transition(matrix), expected, slack=1e-9)


@pytest.mark.parametrize("n", [60, 121, 130, 150, 200])
@pytest.mark.parametrize("down", [0.05, 0.1, 0.2, 0.29])
@pytest.mark.filterwarnings("ignore::attnchain.errors.NumericalWarning")
def test_drifts_of_any_steepness_keep_their_estimate(n, down):
    # Detailed balance makes the chain symmetric, which LAPACK's balancing finds.
    known = chains.birth_death(n, 0.3, down)
    found = second_eigenvalue(as_transition(known.matrix))
    error = abs(float(found.modulus) - float(known.eigenvalues[1].abs()))
    assert error <= float(found.error_estimate)


@pytest.mark.parametrize("size", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("n", [60, 150, 300])
def test_single_precision_is_in_the_estimate(n, size):
    numbers = torch.Generator().manual_seed(n)
    q, k = (size * torch.randn(8, n, 16, generator=numbers) for _ in range(2))
    heads = AttentionTransition(q, k)
    found = second_eigenvalue(heads)
    for i, head in enumerate(heads.chains()):
        exact = np.linalg.eigvals(divided(head))
        error = abs(exact - complex(found.eigenvalue[i])).min()
        assert error <= float(found.error_estimate[i]) <= 1e-4


@pytest.mark.parametrize("size", [1.0, 30.0, 100.0])
def test_causal_attention_with_large_scores_stays_within_one(size):
    numbers = torch.Generator().manual_seed(0)
    q, k = (size * torch.randn(200, 8, generator=numbers) for _ in range(2))
    chain = AttentionTransition(q, k, causal=True)
    expected = np.sort(np.diagonal(divided(chain)))[-2]
    assert_second_is(chain, expected, slack=1e-7)


@pytest.mark.parametrize("n", [400, 513])
@pytest.mark.parametrize("question", [leading_subspaces, spectrum])
def test_leading_eigenvalues_of_permutations_have_modulus_one(question, n):
    order = np.random.default_rng(n).permutation(n)
    matrix = np.eye(n)[order]
    found = question(as_transition(matrix), 4)
    np.testing.assert_allclose(found.eigenvalues.abs(), 1, atol=1e-9)
    exact = np.linalg.eigvals(matrix)
    for value in found.eigenvalues.tolist():
        assert abs(exact - value).min() <= 1e-9


@pytest.mark.parametrize("question", [leading_subspaces, spectrum])
def test_more_copies_than_vectors_in_a_block(question):
    known = chains.block_diagonal(21, 20, 0.3)
    found = question(as_transition(known.matrix), 24)
    expected = known.eigenvalues.abs()
    expected = expected[1:25] if question is leading_subspaces else expected[:24]
    np.testing.assert_allclose(found.eigenvalues.abs(), expected, atol=1e-9)


@pytest.mark.parametrize("n", [130, 300])
@pytest.mark.filterwarnings("ignore::attnchain.errors.NumericalWarning")
def test_no_eigenvalue_of_any_answer_is_larger_than_one(n):
    for matrix in (shift(n), chains.cycle(n).matrix.numpy(), np.full((n, n), 1 / n)):
        for dtype in DTYPES:
            chain = DenseTransition(torch.from_numpy(matrix).to(dtype))
            found = leading_subspaces(chain, 3)
            assert float(found.eigenvalues.abs().max()) <= 1 + 1e-15
            found = spectrum(chain, 3)
            assert float(found.eigenvalues.abs().max()) <= 1 + 1e-15


def test_a_uniform_head_mixes_at_once_and_weighs_nothing():
    flat = torch.full((300, 300), 1 / 300, dtype=torch.float64)
    slow = chains.block_diagonal(3, 100, 0.1).matrix
    heads = DenseTransition(torch.stack([flat, slow, slow, flat]))
    gaps = spectral_gap(heads)
    np.testing.assert_allclose(gaps, [1, 0.15, 0.15, 1], atol=1e-9)
    weights = mix(heads).weights[0]
    np.testing.assert_allclose(weights, [0, 0.5, 0.5, 0], atol=1e-9)


def test_damping_reaches_the_structure_of_the_chain():
    chain = Damped(as_transition(shift(150)), 0.9)
    assert float(second_eigenvalue(chain).modulus) == 0


@given(
    n=st.sampled_from([5, 40, 130, 150]),
    seed=st.integers(0, 99),
    zeros=st.sampled_from([0.0, 0.9, 0.99]),
    peaked=st.sampled_from([0.5, 5.0]),
)
@settings(deadline=None, max_examples=30)
def test_the_order_of_tokens_does_not_matter(n, seed, zeros, peaked):
    draw = np.random.default_rng(seed)
    matrix = draw.random((n, n)) ** peaked * (draw.random((n, n)) >= zeros)
    matrix += 1e-3 * np.eye(n)
    chain = as_transition(matrix / matrix.sum(-1, keepdims=True))
    moved = Permuted(chain, torch.from_numpy(draw.permutation(n)))
    one, other = second_eigenvalue(chain), second_eigenvalue(moved)
    allowed = float(one.error_estimate) + float(other.error_estimate) + 1e-4
    assert abs(float(one.modulus) - float(other.modulus)) <= allowed


def test_rows_in_the_span_of_known_ones_are_made_orthogonal_all_the_same():
    known = torch.linalg.qr(random_tensor(200, 20)).Q.T.contiguous()
    rows = random_tensor(4, 20) @ known + 1e-13 * random_tensor(4, 200)
    found, _ = _orthonormal(known, rows)
    whole = torch.cat([known, found])
    torch.testing.assert_close(whole @ whole.T, torch.eye(24).double())


def test_there_is_no_direction_left_in_a_full_space():
    with pytest.raises(ConvergenceError, match="direction"):
        _orthonormal(torch.eye(5).double(), random_tensor(1, 5))


def random_tensor(*shape):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("seed", range(3))
def test_schur_forms_are_ordered_past_equal_eigenvalues(seed):
    draw = np.random.default_rng(seed)
    values = np.repeat([0.2, 0.9, -0.9, 0.5], 4) + 1e-13 * draw.random(16)
    turned = np.linalg.qr(draw.standard_normal((16, 16)))[0]
    order = ordered_schur(turned @ np.diag(draw.permutation(values)) @ turned.T, 12)
    np.testing.assert_allclose(
        abs(np.diagonal(order.triangular)[:12]), [0.9] * 8 + [0.5] * 4, atol=1e-9
    )


def test_an_estimate_that_is_not_met_is_told():
    with pytest.warns(NumericalWarning, match="ill-conditioned"):
        second_eigenvalue(as_transition(chains.birth_death(150, 0.4, 0.05).matrix))
