"""TokenRank against the float64 reference, NetworkX and closed forms."""

from dataclasses import FrozenInstanceError

import networkx
import numpy as np
import pytest
import torch
from tests.operators.builders import (
    attention,
    each,
    queries_and_keys,
    random_rows,
)

from attnchain import reference
from attnchain.errors import (
    ArgumentError,
    ConvergenceError,
    NotStochasticError,
    ReducibleChainError,
    ShapeError,
    ToleranceError,
)
from attnchain.markov import Outcome, mix, propagate
from attnchain.operators import AttentionTransition, as_transition
from attnchain.ranking import token_rank
from attnchain.testing.chains import birth_death

DIRECTIONS = ("incoming", "outgoing")


def jump(n, seed=3):
    weights = np.random.default_rng(seed).exponential(size=n) + 0.01
    return torch.from_numpy(weights / weights.sum())


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("damping", [0.5, 0.99])
@pytest.mark.parametrize("personal", [False, True], ids=["uniform", "personal"])
def test_every_head_agrees_with_the_reference(direction, damping, personal):
    chain, dense = attention(*queries_and_keys(2, 3, 30, 4))
    v = jump(30) if personal else None
    found = token_rank(chain, damping=damping, direction=direction, personalization=v)
    expected = each(
        lambda matrix: reference.token_rank(
            matrix, damping, direction=direction, personalization=v
        )[None],
        dense,
    )
    error = np.abs(found.distribution.numpy() - expected[..., 0, :]).sum(-1)
    assert found.distribution.shape == (2, 3, 30)
    assert found.distribution.dtype == torch.float64
    assert found.error_bound.shape == found.products.shape == (2, 3)
    assert (error <= found.error_bound.numpy()).all()
    assert float(found.error_bound.max()) <= 1e-6
    assert found.outcome is Outcome.CONVERGED
    assert (found.direction, found.damping) == (direction, damping)


@pytest.mark.parametrize("personal", [False, True], ids=["uniform", "personal"])
def test_incoming_is_pagerank(personal):
    matrix = random_rows(25, 25, zeros=True)
    v = jump(25) if personal else None
    graph = networkx.from_numpy_array(matrix, create_using=networkx.DiGraph)
    ranks = networkx.pagerank(
        graph,
        alpha=0.85,
        personalization=None if v is None else dict(enumerate(v.tolist())),
        tol=1e-14,
        max_iter=10_000,
    )
    expected = torch.tensor([ranks[i] for i in range(25)], dtype=torch.float64)
    found = token_rank(torch.from_numpy(matrix), damping=0.85, personalization=v)
    error = float((found.distribution - expected).abs().sum())
    assert error <= float(found.error_bound) + 1e-12
    assert float(found.error_bound) <= 1e-6


def test_outgoing_is_pagerank_of_the_damped_columns():
    """NetworkX normalises the edge weights of each node by itself."""
    damped = 0.9 * random_rows(20, 20) + 0.1 / 20
    graph = networkx.from_numpy_array(damped.T, create_using=networkx.DiGraph)
    ranks = networkx.pagerank(graph, alpha=1.0, tol=1e-14, max_iter=100_000)
    expected = torch.tensor([ranks[i] for i in range(20)], dtype=torch.float64)
    found = token_rank(
        torch.from_numpy(random_rows(20, 20)), damping=0.9, direction="outgoing"
    )
    assert float((found.distribution - expected).abs().sum()) <= 1e-6


def test_the_direction_says_where_attention_arrives():
    """All look at token 0, which looks around: it is the target, not the source."""
    star = torch.full((6, 6), 0.01, dtype=torch.float64)
    star[:, 0] = 0.95
    star[0] = 1 / 6
    incoming = token_rank(star, direction="incoming").distribution
    outgoing = token_rank(star, direction="outgoing").distribution
    assert int(incoming.argmax()) == 0
    assert float(incoming[0]) > 0.5 > float(outgoing[0])


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_it_is_the_limit_of_the_bounces_of_its_direction(direction):
    chain = as_transition(random_rows(12, 12))
    found = token_rank(chain, damping=1 - 1e-6, direction=direction)
    walked = propagate(chain, 3, 400, direction=direction)
    torch.testing.assert_close(found.distribution, walked, atol=1e-5, rtol=0)


def test_undamped_it_is_the_stationary_distribution():
    known = birth_death(9)
    found = token_rank(known.matrix, damping=1)
    torch.testing.assert_close(found.distribution, known.stationary, atol=1e-6, rtol=0)


def causal(n=12):
    q, k = queries_and_keys(n, 4)
    return AttentionTransition(q, k, causal=True)


def test_causal_attention_ends_in_the_first_token():
    share = [
        float(token_rank(causal(), damping=d).distribution[0])
        for d in (0.5, 0.9, 0.99, 0.999)
    ]
    assert share == sorted(share)
    assert share[-1] > 0.99
    assert token_rank(causal()).absorbing == (0,)


def test_every_document_packed_into_a_row_has_an_absorbing_token():
    """Also in a mixture of heads, and only where no head leaves it."""
    document = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3, 3])
    mask = (document[:, None] == document).tril()
    q, k = queries_and_keys(2, 9, 4)
    packed = AttentionTransition(q, k, mask=mask)
    assert token_rank(packed).absorbing == (0, 3, 5, 6)
    assert token_rank(mix(packed, "uniform")).absorbing == (0, 3, 5, 6)
    leaving = mask.clone()
    leaving[3, 0] = True
    some = AttentionTransition(q, k, mask=torch.stack([mask, leaving]))
    assert token_rank(mix(some, "uniform")).absorbing == (0, 5, 6)
    assert token_rank(some).absorbing == (0, 3, 5, 6)
    assert token_rank(torch.eye(70)).absorbing == tuple(range(70))


def test_a_walk_that_can_leave_every_token_has_no_absorbing_one():
    q, k = queries_and_keys(12, 4)
    assert token_rank(AttentionTransition(q, k)).absorbing == ()
    assert token_rank(torch.from_numpy(random_rows(5, 5))).absorbing == ()


def test_undamped_causal_attention_is_refused():
    with pytest.raises(ReducibleChainError, match="damp"):
        token_rank(causal(), damping=1)


def test_the_most_important_tokens_come_first():
    found = token_rank(torch.from_numpy(random_rows(2, 7, 7)))
    shares = found.distribution.gather(-1, found.top(3))
    assert found.top(3).shape == (2, 3)
    assert torch.equal(shares[:, 0], found.distribution.max(-1).values)
    assert (shares.diff(dim=-1) <= 0).all()
    assert found.top(100).shape == (2, 7)


def test_the_result_is_frozen():
    found = token_rank(torch.eye(2) / 2 + 0.25)
    with pytest.raises(FrozenInstanceError):
        found.damping = 0.5


@pytest.mark.parametrize("damping", [0, -0.1, 1.01, float("nan")])
def test_damping_lies_above_zero_and_up_to_one(damping):
    with pytest.raises(ArgumentError, match=r"damping must lie in \(0, 1\]"):
        token_rank(torch.eye(3), damping=damping)


def test_an_unknown_direction_is_refused():
    with pytest.raises(ArgumentError, match=r"'incoming' or 'outgoing'.*'sideways'"):
        token_rank(torch.eye(3), direction="sideways")


@pytest.mark.parametrize(
    ("v", "error"),
    [
        ([0.5, 0.6, 0.1], NotStochasticError),
        ([1.2, -0.2, 0.0], NotStochasticError),
        ([float("nan"), 0.5, 0.5], NotStochasticError),
        ([0.5, 0.5], ShapeError),
    ],
)
def test_the_personalization_is_a_distribution_over_the_tokens(v, error):
    with pytest.raises(error, match="personalization"):
        token_rank(torch.eye(3), personalization=torch.tensor(v))


def test_a_matrix_of_weights_is_refused():
    with pytest.raises(NotStochasticError, match="normalize_rows"):
        token_rank(torch.ones(3, 3))


def test_a_tolerance_below_rounding_is_refused():
    q, k = queries_and_keys(40, 4, dtype=torch.float32)
    with pytest.raises((ToleranceError, ConvergenceError), match="tolerance"):
        token_rank(AttentionTransition(q, k), tolerance=1e-18)
