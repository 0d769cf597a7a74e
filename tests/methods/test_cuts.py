import numpy as np
import pytest
import torch
from scipy.linalg import eigh

from attnchain.errors import ArgumentError
from attnchain.methods.diffcut import cheapest_side, recursive_cut
from attnchain.methods.ncut import normalised_cut, similarity
from attnchain.methods.tokencut import strong_edges, token_cut


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
    found = normalised_cut(edges).double().numpy()
    weights = edges.double().numpy()
    degree = np.diag(weights.sum(1))
    expected = eigh(degree - weights, degree)[1][:, 1]
    cosine = found @ expected / np.linalg.norm(found) / np.linalg.norm(expected)
    assert abs(cosine) == pytest.approx(1, abs=1e-5)


def test_edges_are_strong_above_the_threshold_or_the_median():
    cosines = torch.tensor([[1.0, 0.3, 0.1], [0.3, 1.0, 0.25], [0.1, 0.25, 1.0]])
    strong = strong_edges(cosines, 0.2)
    assert (strong == 1).tolist() == [[1, 1, 0], [1, 1, 1], [0, 1, 1]]
    assert float(strong[0, 2]) == pytest.approx(1e-5)
    cosines = torch.eye(4)
    rows, columns = torch.triu_indices(4, 4, 1)
    cosines[rows, columns] = cosines[columns, rows] = torch.arange(1, 7) / 10
    median = strong_edges(cosines, None)
    assert torch.equal(median == 1, cosines > 0.4)


@pytest.mark.parametrize("threshold", [0.05, 0.3, None])
def test_a_graph_in_which_all_cuts_cost_the_same_is_refused(threshold):
    cosines = torch.full((6, 6), 0.2).fill_diagonal_(1)
    with pytest.raises(ArgumentError, match=r"one side of it, 0\.2 to 1"):
        token_cut(cosines, rows=2, threshold=threshold)


def test_token_cut_keeps_the_region_around_its_seed():
    """The object's features lie in two places; only one region is kept."""
    labels = torch.zeros(6, 10, dtype=torch.long)
    labels[1:5, 1:5] = 1
    labels[2, 8] = 1
    features = blocks([1, 1], noise=0)[labels.flatten()]
    draw = torch.Generator().manual_seed(0)
    features += 0.02 * torch.randn(features.shape, generator=draw)
    found = token_cut(similarity(features), rows=6)
    inside = torch.zeros(6, 10, dtype=torch.bool)
    inside[1:5, 1:5] = True
    assert torch.equal(found.view(6, 10), inside)


def test_the_recursive_cut_finds_every_block_and_stops():
    sizes = [20, 14, 9]
    found = recursive_cut(similarity(blocks(sizes)))
    assert len(found.unique()) == 3
    for part in found.split(sizes):
        assert len(part.unique()) == 1


def test_the_recursive_cut_leaves_one_block_whole():
    found = recursive_cut(torch.ones(25, 25))
    assert found.unique().tolist() == [0]


def test_the_cost_of_a_side_is_the_normalised_cut():
    edges = similarity(blocks([12, 8])).clamp_min(1e-3)
    side, cost = cheapest_side(edges, 2)
    inside = side.float()
    crossing = inside @ edges @ (1 - inside)
    volume = edges.sum(1)
    expected = crossing / (volume @ inside) + crossing / (volume @ (1 - inside))
    assert cost == pytest.approx(float(expected), rel=1e-5)
    assert sorted([int(side.sum()), int((~side).sum())]) == [8, 12]
