"""Merging of maps: flat shapes, formula of the distance, anchors, refusals."""

import numpy as np
import pytest
import torch
from tests.methods.pictures import PATCH, flat_attention, labels
from tests.vision.promises import assert_keeps_promises

from attnchain.errors import ArgumentError
from attnchain.methods.diffseg import (
    divergence,
    grid_anchors,
    merge_maps,
    rank_anchors,
    segment_regions,
)
from attnchain.operators import as_transition
from attnchain.ranking import token_rank


@pytest.fixture
def attention():
    return flat_attention(closeness=0.3)


@pytest.mark.parametrize("anchors", ["token_rank", "grid"])
def test_flat_shapes_are_regions(attention, anchors):
    found = segment_regions(attention, anchors=anchors, count=24, threshold=0.5)
    middle = found.labels[PATCH // 2 :: PATCH, PATCH // 2 :: PATCH].flatten().tolist()
    pairs = set(zip(middle, labels().flatten().tolist(), strict=True))
    assert len(pairs) == 4
    areas = torch.bincount(found.labels.flatten())
    assert areas.tolist() == sorted(areas.tolist(), reverse=True)
    assert len(found.proposals) == len(areas)


def test_a_segmentation_keeps_its_promises(attention, tmp_path):
    found = segment_regions(attention, count=24, threshold=0.5)
    assert_keeps_promises(found, tmp_path)
    assert torch.equal(found.maps.argmax(0), found.labels)


def test_a_low_threshold_merges_nothing(attention):
    rows = attention.chain.to_dense()
    maps = merge_maps(attention.chain, (3, 20), threshold=1e-9)
    torch.testing.assert_close(maps, rows[[3, 20]])


def test_a_high_threshold_merges_all(attention):
    maps = merge_maps(attention.chain, (3, 20), threshold=100, rounds=2)
    torch.testing.assert_close(maps, attention.chain.to_dense().mean(0)[None])


def test_the_distance_is_half_of_both_divergences():
    first = torch.randn(3, 7).double().softmax(-1)
    second = torch.randn(4, 7).double().softmax(-1)
    a, b = first.numpy()[:, None], second.numpy()[None]
    expected = ((a * np.log(a / b)).sum(-1) + (b * np.log(b / a)).sum(-1)) / 2
    np.testing.assert_allclose(divergence(first, second).numpy(), expected)


def test_grid_anchors_are_regular(attention):
    assert grid_anchors(attention, 48) == tuple(range(48))
    assert grid_anchors(attention, 12) == tuple(
        8 * row + column for row in (1, 3, 5) for column in (1, 3, 5, 7)
    )
    assert grid_anchors(attention, 1) == (8 * 3 + 4,)


@pytest.mark.parametrize("count", [1, 5, 13, 48, 60])
def test_numbers_of_anchors(attention, count):
    assert len(rank_anchors(attention, count)) == min(count, 48)
    regular = grid_anchors(attention, count)
    assert 0.75 * min(count, 48) <= len(regular) <= count
    for chosen in (regular, rank_anchors(attention, count)):
        assert len(set(chosen)) == len(chosen)


def test_rank_anchors_are_apart_and_high(attention):
    chosen = rank_anchors(attention, 10)
    assert chosen[0] == int(token_rank(attention.chain).top(1))
    places = [divmod(patch, 8) for patch in chosen]
    distances = [
        max(abs(a - c), abs(b - d))
        for a, b in places
        for c, d in places
        if (a, b) != (c, d)
    ]
    assert min(distances) >= 2


@pytest.mark.parametrize("count", [0, 2.5])
def test_anchor_counts_are_whole_and_positive(attention, count):
    with pytest.raises(ArgumentError, match="count"):
        segment_regions(attention, count=count)


def test_unknown_anchors(attention):
    with pytest.raises(ArgumentError, match="'token_rank' or 'grid'"):
        segment_regions(attention, anchors="random")


@pytest.mark.parametrize(
    "wrong",
    [{"threshold": 0}, {"threshold": None}, {"rounds": 0}, {"anchors": ()}],
    ids=str,
)
def test_impossible_merging(wrong):
    chain = as_transition(torch.eye(2))
    with pytest.raises(ArgumentError, match=next(iter(wrong)).rstrip("s")):
        merge_maps(chain, **{"anchors": (0,), "threshold": 1.0} | wrong)
