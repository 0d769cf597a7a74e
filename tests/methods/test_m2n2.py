"""Markov maps: closed form on two blocks, brute force for floods, refusals."""

import itertools
import math

import pytest
import torch

from attnchain.capturing import TokenGrid
from attnchain.errors import ArgumentError, ConvergenceError
from attnchain.methods.m2n2 import (
    balance,
    flooded,
    markov_map,
    searched_threshold,
    sharpen,
)
from attnchain.operators import DenseTransition, as_transition
from attnchain.testing import assert_stochastic


def two_blocks(leak, size=4):
    """Walkers mix inside their block at once and leave it with probability `leak`."""
    inside = torch.full((size, size), (1 - leak) / size, dtype=torch.float64)
    across = torch.full((size, size), leak / size, dtype=torch.float64)
    upper = torch.cat([inside, across], 1)
    return as_transition(torch.cat([upper, upper.roll(size, 1)]))


def random_chain(n=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return as_transition(
        (2 * torch.randn(n, n, generator=generator, dtype=torch.float64)).softmax(-1)
    )


@pytest.mark.parametrize(("leak", "bounces"), [(0.01, 31), (0.05, 6)])
@pytest.mark.parametrize("threshold", [0.3, 0.6])
def test_two_blocks_have_a_closed_form(leak, bounces, threshold):
    """After t bounces the other block has (1 - l^t) / (1 + l^t) of the own one's."""
    times = markov_map(two_blocks(leak), 0, threshold=threshold)
    slow = 1 - 2 * leak
    exact = math.log((1 - threshold) / (1 + threshold)) / math.log(slow)
    if threshold == 0.3:
        assert math.ceil(exact) == bounces
    before, after = (
        (1 - slow**t) / (1 + slow**t) for t in (exact // 1, exact // 1 + 1)
    )
    interpolated = exact // 1 + (threshold - before) / (after - before)
    assert times[0] == 0
    torch.testing.assert_close(times[1:4], torch.zeros(3).double())
    torch.testing.assert_close(times[4:], torch.full((4,), interpolated).double())


def test_the_first_bounce_is_interpolated_over_what_the_threshold_leaves():
    chain = as_transition(
        torch.tensor([[0.5, 0.4, 0.1], [0.3] * 2 + [0.4], [0.2, 0.4, 0.4]])
    )
    times = markov_map(chain, 0, threshold=0.3)
    torch.testing.assert_close(times[1], torch.tensor(1 - (0.8 - 0.3) / 0.7))
    assert 1 < times[2] <= 2


def test_what_is_never_reached_has_the_limit():
    chain = as_transition(torch.eye(3))
    assert markov_map(chain, 1, limit=7).tolist() == [7, 0, 7]


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_thresholds_lie_between_zero_and_one(threshold):
    with pytest.raises(ArgumentError, match="threshold in"):
        markov_map(as_transition(torch.eye(2)), 0, threshold=threshold)


def test_a_batch_has_no_markov_map():
    batch = as_transition(torch.eye(2).expand(3, 2, 2))
    with pytest.raises(ArgumentError, match="one chain"):
        markov_map(batch, 0)
    with pytest.raises(ArgumentError, match="one chain"):
        balance(batch)


def test_balanced_chains_are_doubly_stochastic():
    chain = random_chain()
    balanced = balance(chain, tolerance=1e-12)
    assert_stochastic(balanced)
    matrix = balanced.to_dense()
    torch.testing.assert_close(matrix.sum(0), torch.ones(12).double())
    ratio = (matrix / chain.to_dense()).log()
    torch.testing.assert_close(  # rows and columns were scaled, nothing else
        ratio, ratio[:, :1] + ratio[:1] - ratio[:1, :1], atol=1e-9, rtol=0
    )


def test_a_chain_that_cannot_be_balanced():
    chain = as_transition(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    with pytest.raises(ConvergenceError, match="column sum is still off") as caught:
        balance(chain, max_rounds=20)
    assert caught.value.result.shape == (2, 2)


def test_sharpening_keeps_the_order_and_the_rows():
    chain = random_chain()
    sharp = sharpen(chain, 0.65)
    assert_stochastic(sharp)
    before, after = chain.to_dense().log(), sharp.to_dense().log()
    wanted = before / 0.65
    wanted = wanted - wanted.logsumexp(-1, keepdim=True)
    torch.testing.assert_close(after, wanted)
    assert isinstance(sharpen(chain, 1.0), DenseTransition)


def test_temperatures_are_positive():
    with pytest.raises(ArgumentError, match="temperature"):
        sharpen(random_chain(), 0)


def simple_paths(neighbours, path):
    yield path
    for patch in neighbours[path[-1]]:
        if patch not in path:
            yield from simple_paths(neighbours, (*path, patch))


@pytest.mark.parametrize("seeds", [(0,), (4, 7)])
def test_floods_equal_brute_force_over_all_paths(seeds):
    grid, n = TokenGrid(3, 3), 9
    times = torch.randint(
        0, 6, (n,), generator=torch.Generator().manual_seed(1)
    ).double()
    times[list(seeds)] = 0
    neighbours = {
        i: [j for j in range(n) if abs(i // 3 - j // 3) + abs(i % 3 - j % 3) == 1]
        for i in range(n)
    }
    expected = torch.full((n,), torch.inf).double()
    for path in itertools.chain(*(simple_paths(neighbours, (s,)) for s in seeds)):
        highest = max(times[list(path)].tolist())
        expected[path[-1]] = min(float(expected[path[-1]]), highest)
    torch.testing.assert_close(flooded(times, grid, seeds), expected)


def nested_squares():
    """0 inside 8 x 8, 1 around it to 14 x 14, 5 beyond: the outer border is steeper."""
    level = torch.full((24, 24), 5.0)
    level[5:19, 5:19] = 1
    level[8:16, 8:16] = 0
    return level


@pytest.mark.parametrize(
    ("same", "others", "holds"),
    [
        ([0.0], [], 1.0),  # the steeper border
        ([0.0], [1.0], 0.0),  # it holds an opposite mark
        ([0.0, 0.0, 5.0], [], 1.0),  # a mark of the same sign far away does not stop it
    ],
)
def test_the_searched_threshold_is_at_the_steepest_border_that_agrees(
    same, others, holds
):
    level = nested_squares()
    assert searched_threshold(level, level, same, others) == holds


def test_no_region_is_larger_than_four_tenths_of_the_picture():
    level = torch.zeros(20, 20)
    level[:, 10:] = 9
    level[:, :4] -= 1  # two tenths; the steep border has five
    assert searched_threshold(level, level, [-1.0], []) == -1


def test_where_no_region_agrees_the_smallest_is_taken():
    level = nested_squares()
    assert searched_threshold(level, level, [0.0], [0.0]) == 0


def test_the_search_equals_one_by_hand():
    generator = torch.Generator().manual_seed(3)
    level, times = torch.rand(2, 12, 15, generator=generator).double()
    same, others = [0.05, 0.3, 0.01], [0.35]
    padded = torch.nn.functional.pad(times[None], (1, 1, 1, 1), mode="replicate")[0]
    ordered = level.flatten().sort().values
    best, expected = -1.0, 0.0
    for share in torch.linspace(0, 0.4, 161)[1:]:
        threshold = float(ordered[int(share * 179)])
        slopes = []
        for y, x in itertools.product(range(12), range(15)):
            around = level[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
            if level[y, x] <= threshold and bool((around > threshold).any()):
                a = padded[y : y + 3, x : x + 3]
                across = (a[:, 2] - a[:, 0]) @ torch.tensor([1.0, 2, 1]).double()
                down = (a[2] - a[0]) @ torch.tensor([1.0, 2, 1]).double()
                slopes.append(math.hypot(across, down))
        agree = sum(value <= threshold for value in same) / len(same)
        score = sum(slopes) / max(1, len(slopes)) * agree
        if score > best and all(value > threshold for value in others):
            best, expected = score, threshold
    assert searched_threshold(level, times, same, others) == pytest.approx(expected)
