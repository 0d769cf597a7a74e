"""propagate: starts, directions, first bounces, and what it refuses."""

import numpy as np
import pytest
import torch
from tests.operators.builders import attention, each, queries_and_keys, random_rows

from attnchain import reference
from attnchain.errors import ArgumentError, NotStochasticError, ShapeError
from attnchain.markov import propagate
from attnchain.operators import (
    AttentionTransition,
    Damped,
    DenseTransition,
    as_transition,
)
from attnchain.testing import assert_distribution, chains


@pytest.fixture
def matrix():
    return random_rows(6, 6)


@pytest.fixture
def chain(matrix):
    return as_transition(matrix)


@pytest.mark.parametrize("direction", ["incoming", "outgoing"])
def test_every_bounce_is_that_of_the_reference(direction):
    transition, twin = attention(*queries_and_keys(2, 3, 6, 4), backend="tiled")
    start = torch.from_numpy(random_rows(2, 3, 6))
    found = propagate(
        Damped(transition, 0.9), start, 5, direction=direction, all_bounces=True
    )
    expected = each(
        lambda p, v: reference.propagate(
            reference.damped(p, 0.9), v[0], 5, direction=direction
        ),
        twin,
        start.numpy()[..., None, :],
    )
    assert found.shape == (6, 2, 3, 6)
    np.testing.assert_allclose(found, np.moveaxis(expected, -2, 0), atol=1e-12)


@pytest.mark.parametrize("direction", ["incoming", "outgoing"])
def test_the_last_bounce_is_returned_alone(chain, direction):
    every = propagate(chain, 1, 4, direction=direction, all_bounces=True)
    last = propagate(chain, 1, 4, direction=direction)
    torch.testing.assert_close(last, every[-1], atol=0, rtol=0)


def test_one_incoming_bounce_from_a_token_is_row_select(chain, matrix):
    np.testing.assert_allclose(propagate(chain, 3, 1), matrix[3])


def test_one_outgoing_bounce_from_a_token_is_column_select(chain, matrix):
    found = propagate(chain, 3, 1, direction="outgoing")
    np.testing.assert_allclose(found, matrix[:, 3] / matrix[:, 3].sum())


def test_one_incoming_bounce_from_everywhere_is_the_column_sum(chain, matrix):
    found = propagate(chain, range(6), 1)
    np.testing.assert_allclose(6 * found, matrix.sum(0))


def test_no_bounce_is_the_start(chain):
    found = propagate(chain, 2, 0, all_bounces=True)
    torch.testing.assert_close(found, torch.eye(6, dtype=torch.float64)[2:3])


def test_a_start_can_be_named_in_four_ways(chain):
    v = torch.tensor([0.5, 0, 0, 0.5, 0, 0], dtype=torch.float64)
    starts = [[0, 3], (3, 0), v > 0, torch.tensor([0, 3]), v]
    found = torch.stack([propagate(chain, start, 2) for start in starts])
    torch.testing.assert_close(found, found[:1].expand_as(found))


def test_a_token_named_twice_counts_once(chain):
    torch.testing.assert_close(
        propagate(chain, [0, 0, 3], 1), propagate(chain, [0, 3], 1)
    )


def test_a_shared_start_is_given_to_every_chain_of_a_batch():
    chain = DenseTransition(torch.from_numpy(random_rows(2, 3, 4, 4)))
    found = propagate(chain, 0, 2)
    assert found.shape == (2, 3, 4)
    torch.testing.assert_close(found[1, 2], propagate(chain[1, 2], 0, 2))


def test_a_cycle_goes_round():
    chain = as_transition(chains.cycle(5).matrix)
    assert [int(propagate(chain, 0, t).argmax()) for t in range(6)] == [
        0,
        1,
        2,
        3,
        4,
        0,
    ]


def test_a_causal_chain_ends_in_the_first_token():
    chain = as_transition(chains.absorbing_causal(5).matrix)
    assert propagate(chain, 4, 200)[0] > 1 - 1e-12


def test_many_bounces_reach_the_stationary_distribution():
    known = chains.birth_death(5)
    found = propagate(as_transition(known.matrix), 0, 2000)
    torch.testing.assert_close(found, known.stationary)


def test_bounces_of_single_precision_chains_keep_their_mass():
    q, k = queries_and_keys(64, 8, size=3.0, dtype=torch.float32)
    transition, _ = attention(q, k)
    assert_distribution(propagate(transition, 0, 500), atol=1e-6)


@pytest.mark.parametrize(
    "bounces", [-1, 1.5, float("nan"), float("inf"), None, "2", True]
)
def test_bounces_are_whole_numbers(chain, bounces):
    with pytest.raises(ArgumentError, match="bounces"):
        propagate(chain, 0, bounces)


def test_unknown_directions_are_refused(chain):
    with pytest.raises(ArgumentError, match=r"direction.*'incoming' or 'outgoing'"):
        propagate(chain, 0, 1, direction="forward")


@pytest.mark.parametrize("given", [torch.eye(3), None, [[1.0]]], ids=str)
@pytest.mark.parametrize("direction", ["incoming", "outgoing"])
def test_only_chains_are_walked(given, direction):
    with pytest.raises(ArgumentError, match=r"transition.*as_transition"):
        propagate(given, 0, 1, direction=direction)


@pytest.mark.parametrize(
    "start", [6, -1, [0, 6], [], torch.zeros(6).bool(), torch.ones(5).bool()]
)
def test_tokens_that_are_not_there_are_refused(chain, start):
    with pytest.raises(ArgumentError, match="start"):
        propagate(chain, start, 1)


@pytest.mark.parametrize("start", [0.5, 1j, 10**30, "cat", None, {}, [[0, 1]]], ids=str)
def test_starts_that_are_no_tokens_are_refused(chain, start):
    with pytest.raises(ArgumentError, match="start"):
        propagate(chain, start, 1)


@pytest.mark.parametrize("bad", [0.5, -1.0, float("nan")])
def test_starts_that_are_no_distribution_are_refused(chain, bad):
    start = torch.zeros(6)
    start[0] = bad
    with pytest.raises(NotStochasticError, match="start"):
        propagate(chain, start, 1)


@pytest.mark.parametrize("shape", [(5,), (3, 6), (2, 2, 6)])
def test_starts_of_another_shape_are_refused(shape):
    chain = DenseTransition(torch.from_numpy(random_rows(2, 6, 6)))
    with pytest.raises(ShapeError, match="start"):
        propagate(chain, torch.full(shape, 1 / shape[-1]), 1)


def test_outgoing_bounces_need_somebody_who_looks():
    chain = as_transition(torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    with pytest.raises(NotStochasticError, match="state 0"):
        propagate(chain, 1, 1, direction="outgoing")


@pytest.mark.parametrize("nats", [-36.0, -95.0, -100.0, -200.0, -600.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", ["dense", "tiled"])
@pytest.mark.parametrize("token", [0, 3])
def test_outgoing_bounces_from_a_token_hardly_looked_at(nats, dtype, backend, token):
    q, k = queries_and_keys(6, 4, dtype=dtype)
    mask = torch.zeros(6, 6, dtype=dtype)
    mask[:, token] = nats
    chain = AttentionTransition(q, k, mask=mask, backend=backend)
    found = propagate(chain, token, 3, direction="outgoing", all_bounces=True)
    matrix = reference.attention(q.double().numpy(), k.double().numpy(), mask=mask)
    expected = reference.propagate(matrix, np.eye(6)[token], 3, direction="outgoing")
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    np.testing.assert_allclose(found, expected, atol=tolerance)


@pytest.mark.parametrize(
    ("dtype", "chance"),
    [(torch.float32, 1e-20), (torch.float32, 1e-40), (torch.float64, 1e-200)],
)
def test_outgoing_bounces_over_hardly_ever_taken_steps_of_stored_chains(dtype, chance):
    matrix = torch.full((4, 4), 1 / 3, dtype=dtype)
    matrix[:, 0] = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=dtype) * chance
    found = propagate(as_transition(matrix), 0, 1, direction="outgoing")
    expected = matrix[:, 0].double() / matrix[:, 0].double().sum()
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=0)


def test_steps_below_the_smallest_normal_number_cannot_be_turned():
    matrix = torch.full((4, 4), 1 / 3, dtype=torch.float64)
    matrix[:, 2] = 1e-315
    with pytest.raises(NotStochasticError, match="state 2"):
        propagate(as_transition(matrix), 2, 1, direction="outgoing")
