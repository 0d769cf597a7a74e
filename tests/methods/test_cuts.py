import numpy as np
import pytest
import torch
from scipy.linalg import eigh

from attnchain.methods import cuts


def blocks(sizes, *, noise=0.05, seed=0, width=16):
    """Features near one direction for each block."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.eye(width)[: len(sizes)]
    rows = centres.repeat_interleave(torch.tensor(sizes), 0)
    return rows + noise * torch.randn(rows.shape, generator=draw)


@pytest.mark.parametrize("n", [4, 30])
def test_the_normalised_cut_solves_its_generalised_eigenproblem(n):
    draw = torch.Generator().manual_seed(n)
    edges = torch.rand(n, n, generator=draw)
    edges = edges + edges.T
    found = cuts.normalised_cut(edges).double().numpy()
    weights = edges.double().numpy()
    degree = np.diag(weights.sum(1))
    expected = eigh(degree - weights, degree)[1][:, 1]
    cosine = found @ expected / np.linalg.norm(found) / np.linalg.norm(expected)
    assert abs(cosine) == pytest.approx(1, abs=1e-5)


def test_edges_are_strong_above_the_threshold_or_the_median():
    cosines = torch.tensor([[1.0, 0.3, 0.1], [0.3, 1.0, 0.25], [0.1, 0.25, 1.0]])
    strong = cuts.strong_edges(cosines, 0.2)
    assert (strong == 1).tolist() == [[1, 1, 0], [1, 1, 1], [0, 1, 1]]
    assert float(strong[0, 2]) == pytest.approx(1e-5)
    median = cuts.strong_edges(cosines, None)
    assert (median == 1).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_token_cut_keeps_the_region_around_its_seed():
    """The object's features lie in two places; only one region is kept."""
    labels = torch.zeros(6, 10, dtype=torch.long)
    labels[1:5, 1:5] = 1
    labels[2, 8] = 1
    features = blocks([1, 1], noise=0)[labels.flatten()]
    draw = torch.Generator().manual_seed(0)
    features += 0.02 * torch.randn(features.shape, generator=draw)
    found = cuts.token_cut(cuts.similarity(features), rows=6)
    inside = torch.zeros(6, 10, dtype=torch.bool)
    inside[1:5, 1:5] = True
    assert torch.equal(found.view(6, 10), inside)


def test_the_recursive_cut_finds_every_block_and_stops():
    sizes = [20, 14, 9]
    found = cuts.recursive_cut(cuts.similarity(blocks(sizes)))
    assert len(found.unique()) == 3
    for part in found.split(sizes):
        assert len(part.unique()) == 1


def test_the_recursive_cut_leaves_one_block_whole():
    found = cuts.recursive_cut(torch.ones(25, 25))
    assert found.unique().tolist() == [0]


def test_the_cost_of_a_side_is_the_normalised_cut():
    edges = cuts.similarity(blocks([12, 8])).clamp_min(1e-3)
    side, cost = cuts.cheapest_side(edges, 2)
    inside = side.float()
    crossing = inside @ edges @ (1 - inside)
    volume = edges.sum(1)
    expected = crossing / (volume @ inside) + crossing / (volume @ (1 - inside))
    assert cost == pytest.approx(float(expected), rel=1e-5)
    assert sorted([int(side.sum()), int((~side).sum())]) == [8, 12]


def test_k_means_finds_the_blocks_and_repeats():
    features = blocks([20, 14, 9])
    found = cuts.k_means(features, 3)
    assert [len(part.unique()) for part in found.split([20, 14, 9])] == [1, 1, 1]
    assert len(found.unique()) == 3
    assert torch.equal(found, cuts.k_means(features, 3))
