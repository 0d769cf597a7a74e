"""Parts of a set that hold apart, on walks whose necks are known."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import eigh

from attnchain.capturing import TokenGrid
from attnchain.operators import as_transition
from attnchain.vision.standing_apart import (
    narrowest_neck,
    nearby_steps,
    standing_apart,
)

GRID = TokenGrid(9, 30)


def evenly(n):
    """A walk that tells no patch from another."""
    return as_transition(torch.full((n, n), 1 / n, dtype=torch.float64))


def drawn(*boxes):
    """The patches of some boxes (top, bottom, left, right)."""
    plane = torch.zeros(GRID.rows, GRID.columns, dtype=torch.bool)
    for top, bottom, left, right in boxes:
        plane[top:bottom, left:right] = True
    return plane.flatten()


BODIES = drawn((1, 8, 0, 7)), drawn((1, 8, 11, 18)), drawn((1, 8, 22, 29))


@pytest.mark.parametrize("neck", [(), ((4, 5, 0, 29),)], ids=["apart", "joined"])
def test_three_bodies_are_three_with_and_without_necks(neck):
    members = BODIES[0] | BODIES[1] | BODIES[2] | drawn(*neck)
    parts = standing_apart(evenly(GRID.n_patches), members, GRID)
    assert len(parts) == 3
    assert torch.equal(parts.any(0), members)
    assert int(parts.sum()) == int(members.sum())
    for body in BODIES:
        assert int((parts & body).any(1).sum()) == 1


@pytest.mark.parametrize("width", [4, 9, 21])
def test_one_body_stays_one(width):
    whole = drawn((0, 9, 0, width))
    parts = standing_apart(evenly(GRID.n_patches), whole, GRID)
    assert torch.equal(parts, whole[None])


def test_a_walk_that_stays_on_either_side_parts_what_no_neck_parts():
    whole = drawn((0, 9, 0, 18))
    column = torch.arange(GRID.n_patches) % GRID.columns
    left = column < 9
    rows = torch.where(left[:, None] == left, 1.0, 0.05).double()
    walk = as_transition(rows / rows.sum(1, keepdim=True))
    parts = standing_apart(walk, whole, GRID)
    assert sorted(parts.tolist()) == sorted([
        (whole & left).tolist(), (whole & ~left).tolist()
    ])  # fmt: skip


def test_specks_belong_to_no_part():
    members = drawn((0, 6, 0, 6), (8, 9, 28, 30))
    parts = standing_apart(evenly(GRID.n_patches), members, GRID)
    assert torch.equal(parts, drawn((0, 6, 0, 6))[None])
    nothing = torch.zeros_like(members)
    assert standing_apart(evenly(GRID.n_patches), nothing, GRID).shape == (0, 270)


@given(seed=st.integers(0, 2**16), m=st.integers(17, 40))
def test_the_neck_is_the_cheapest_along_the_slowest_function(seed, m):
    generator = torch.Generator().manual_seed(seed)
    half = torch.rand(m, m, generator=generator, dtype=torch.float64)
    steps = half @ half.T
    side, cost = narrowest_neck(steps)
    weights, volume = steps.numpy(), steps.sum(1).numpy()
    slowest = eigh(weights, torch.diag(steps.sum(1)).numpy())[1][:, -2]
    order = slowest.argsort()
    costs = []
    for k in range(8, m - 7):
        one, other = order[:k], order[k:]
        crossing = weights[one][:, other].sum()
        costs.append(crossing / volume[one].sum() + crossing / volume[other].sum())
    assert cost == pytest.approx(min(costs) * m**0.5 / 2, rel=1e-3)
    assert 8 <= int(side.sum()) <= m - 8


def test_steps_far_away_count_for_little():
    places = torch.tensor([0, 1, 5])
    walk = evenly(6)
    found = nearby_steps(walk, places, TokenGrid(1, 6))
    distance = torch.tensor([[0.0, 1, 5], [1, 0, 4], [5, 4, 0]]).double()
    expected = (-(distance**2) / 8).exp() / 6
    torch.testing.assert_close(found, expected)
