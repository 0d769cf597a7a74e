"""Answers are those of the numbers as given, rows divided in float64, within bounds."""

import networkx as nx
import numpy as np
import pytest
import torch
from tests.operators.builders import queries_and_keys, random_rows

from attnchain import reference
from attnchain.markov import second_eigenvalue, stationary
from attnchain.operators import (
    AttentionTransition,
    ColumnNormalized,
    Damped,
    DenseTransition,
    Mixture,
    Restricted,
    Reversed,
    as_transition,
)

DAMPINGS = [0.5, 0.99, 0.9999]
DIRECTIONS = ["incoming", "outgoing"]


def assert_certified(chain, matrix, damping, direction="incoming", v=None):
    """TokenRank is within its small bound of the one of a float64 matrix."""
    damped = Damped(chain, damping, v)
    found = stationary(ColumnNormalized(damped) if direction == "outgoing" else damped)
    given = None if v is None else v.double().numpy()
    expected = reference.token_rank(
        matrix, damping, direction=direction, personalization=given
    )
    error = np.abs(found.distribution.numpy() - expected).sum()
    floor = 1e-13 / (1 - damping)  # of the dense twin
    assert error <= float(found.error_bound) + floor
    assert float(found.error_bound) <= 1e-6
    assert error <= 1e-8  # far below what a part rounded to single precision leaves


def softmax_of(q, k, **options):
    wide = zip(q.double().numpy(), k.double().numpy(), strict=True)
    return np.stack([reference.attention(a, b, **options) for a, b in wide])


@pytest.mark.parametrize("damping", DAMPINGS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_weights_of_a_mixture_are_not_rounded(damping, direction):
    q, k = queries_and_keys(6, 40, 4, dtype=torch.float32)
    weights = random_rows(1, 6, seed=5)[0]  # 17 digits each
    mixed = Mixture([AttentionTransition(q, k)], [torch.from_numpy(weights)])
    matrix = np.tensordot(weights, softmax_of(q, k), 1)
    assert_certified(mixed, matrix, damping, direction)
    keep = np.arange(3, 33)
    kept = Restricted(mixed, torch.from_numpy(keep))
    assert_certified(kept, reference.restricted(matrix, keep), damping, direction)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_weights_and_jumps_that_are_rounded_are_divided_by_their_sums(dtype):
    q, k = queries_and_keys(6, 40, 4, dtype=torch.float32)
    weights = torch.from_numpy(random_rows(1, 6)[0]).to(dtype)
    mixed = Mixture([AttentionTransition(q, k)], [weights])
    matrix = reference.mixture(softmax_of(q, k), weights.double().numpy())
    v = torch.from_numpy(random_rows(1, 40)[0]).to(dtype)
    for direction in DIRECTIONS:
        assert_certified(mixed, matrix, 0.99, direction, v)


ADDED = {
    "-1e30": -1e30,
    "-1e4": -1e4,
    "1e6": 1e6,
    "smallest": float(torch.finfo(torch.float32).min),
}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("backend", ["dense", "tiled"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("added", ADDED.values(), ids=ADDED.keys())
def test_what_a_mask_adds_to_a_whole_row_changes_nothing(added, dtype, backend, causal):
    q, k = queries_and_keys(2, 30, 4, dtype=dtype)
    rows = torch.zeros(30, 1, dtype=dtype)
    rows[[3, 17]] = added
    options = {"causal": causal, "backend": backend}
    plain = AttentionTransition(q, k, **options)
    masked = AttentionTransition(q, k, mask=rows.expand(30, 30), **options)
    torch.testing.assert_close(masked.to_dense(), plain.to_dense(), atol=0, rtol=0)
    torch.testing.assert_close(masked.diagonal(), plain.diagonal(), atol=0, rtol=0)
    assert masked.row_error == plain.row_error


@pytest.mark.parametrize("backend", ["auto", "tiled"])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("added", [*ADDED.values(), -30.0, -300.0])
def test_additive_masks_are_in_the_bound(added, direction, backend):
    q, k = queries_and_keys(30, 4, dtype=torch.float32)
    mask = 5 * torch.from_numpy(random_rows(30, 30, seed=2)).float()
    mask[4] += added
    mask[:, 7] += added if added < 0 else 0.0
    mask[7, 7], mask[9, 3] = 0.0, -torch.inf
    chain = AttentionTransition(q, k, mask=mask, backend=backend)
    matrix = softmax_of(q[None], k[None], mask=mask.double().numpy())[0]
    assert_certified(chain, matrix, 0.99, direction)
    assert_certified(Damped(chain, 0.9), reference.damped(matrix, 0.9), 0.9, direction)


def test_padded_causal_rows_see_what_is_added_to_all_their_keys():
    q, k = queries_and_keys(6, 4, dtype=torch.float32)
    padding = torch.tensor([-1e30, -1e30, 0, 0, 0, 0])
    chain = AttentionTransition(q, k, mask=padding, causal=True, backend="tiled")
    matrix = softmax_of(q[None], k[None], mask=padding.numpy(), causal=True)[0]
    np.testing.assert_allclose(chain.to_dense(), matrix, atol=1e-6)
    assert 0.1 < matrix[1, 0] < 0.9
    alone = AttentionTransition(q[:2], k[:2], causal=True).to_dense()
    torch.testing.assert_close(chain.to_dense()[:2, :2], alone)


KINDS = {
    "float64, off by 9e-6": (torch.float64, 9e-6),
    "float32": (torch.float32, 0.0),
    "float32, off by 9e-6": (torch.float32, 9e-6),
    "float16": (torch.float16, 0.0),
    "bfloat16": (torch.bfloat16, 0.0),
}


def rounded(kind, n=60):
    dtype, off = KINDS[kind]
    matrix = random_rows(n, n, seed=1)
    uneven = np.random.default_rng(2).uniform(-off, off, (n, 1))
    return torch.from_numpy(matrix * (1 + uneven)).to(dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damping", DAMPINGS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_stored_rows_are_divided(kind, damping, direction):
    given = rounded(kind)
    matrix = reference.normalize_rows(given.double().numpy())
    assert_certified(as_transition(given), matrix, damping, direction)


@pytest.mark.parametrize("kind", KINDS)
def test_undamped_stored_rows_are_divided(kind):
    given = rounded(kind)
    matrix = reference.normalize_rows(given.double().numpy())
    found = stationary(as_transition(given), tolerance=1e-9)
    error = np.abs(found.distribution.numpy() - reference.stationary(matrix)).sum()
    assert error <= float(found.error_bound) + 1e-13
    modulus = second_eigenvalue(as_transition(given).to(torch.float64)).modulus
    assert abs(float(modulus) - abs(reference.second_eigenvalue(matrix))) < 1e-9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damping", [0.85, 0.99])
def test_token_rank_is_that_of_networkx(kind, damping):
    given = rounded(kind)
    graph = nx.from_numpy_array(given.double().numpy(), create_using=nx.DiGraph)
    rank = nx.pagerank(graph, alpha=damping, tol=1e-15, max_iter=20_000)
    found = stationary(Damped(as_transition(given), damping), tolerance=1e-9)
    expected = np.array([rank[i] for i in range(len(given))])
    assert np.abs(found.distribution.numpy() - expected).sum() <= 1e-11


def test_time_reversal_keeps_pi_as_given():
    q, k = queries_and_keys(30, 4, dtype=torch.float32)
    chain = AttentionTransition(q, k)
    pi = stationary(chain, tolerance=1e-9).distribution
    matrix = softmax_of(q[None], k[None])[0]
    backwards = Reversed(chain, pi)
    expected = reference.reversed_(matrix, pi.numpy())
    found = backwards.to(torch.float64).to_dense()
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-14)
    assert_certified(backwards, expected, 0.9999)


def test_single_precision_products_of_double_weights_round_once():
    heads = DenseTransition(torch.from_numpy(random_rows(3, 5, 5)).float())
    weights = torch.tensor([1 / 3, 1 / 7, 1 - 1 / 3 - 1 / 7]).double()
    mixed = Mixture([heads], [weights])
    assert mixed.dtype == mixed.push(torch.ones(5)).dtype == torch.float32
    wide = mixed.to(torch.float32).to(torch.float64)
    expected = reference.mixture(heads.to(torch.float64).to_dense().numpy(), weights)
    np.testing.assert_allclose(wide.to_dense(), expected, rtol=1e-14)
