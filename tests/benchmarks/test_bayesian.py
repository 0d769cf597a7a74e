"""The benchmark of Bayesian attention: its network and scores, on a small graph."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn.functional import elu, leaky_relu

from attnchain import TokenGrid
from attnchain.methods import WeibullWeights

FOLDER = Path(__file__).parents[2] / "benchmarks" / "methods"


@pytest.fixture
def script(monkeypatch):
    """Imports scripts by name; they see each other, and leave nothing behind."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in ("bayesian", "bayesian_gat", "bayesian_rank"):
        sys.modules.pop(name, None)


@pytest.fixture
def gat(script):
    return script("bayesian_gat")


@pytest.fixture
def graph(gat, tmp_path):
    """Two classes with words of their own, and edges mostly within them."""
    draw = np.random.default_rng(0)
    labels = np.arange(60) % 2
    words = labels[:, None] * 10 + draw.integers(0, 12, (60, 4))
    pairs = {(i, int(w)) for i, row in enumerate(words) for w in row}
    rows, columns = np.array(sorted(pairs)).T
    edges = draw.integers(0, 60, (2, 150))
    edges[1] = np.where(draw.random(150) < 0.9, edges[1] // 2 * 2, edges[1])
    edges[1] = (edges[1] + labels[edges[0]]) % 60
    np.savez(
        tmp_path / "cora.npz",
        feature_row=rows.astype(np.int32),
        feature_column=columns.astype(np.int32),
        labels=labels,
        edges=edges.astype(np.int32),
        train=np.arange(20),
        validation=np.arange(20, 40),
        test=np.arange(40, 60),
    )
    return gat.Graph.read(tmp_path)


def dense_attention(layer, graph, x):
    """The same layer with matrices and a loop over heads."""
    allowed = torch.zeros(graph.n, graph.n).bool()
    allowed[graph.target, graph.source] = True
    parts, chains = [], []
    for head in range(layer.heads):
        features = (x @ layer.project).unflatten(1, (layer.heads, -1))[:, head]
        ask, answer = features @ layer.ask[head], features @ layer.answer[head]
        scores = leaky_relu(ask[:, None] + answer[None], 0.2)
        chains.append(scores.masked_fill(~allowed, -torch.inf).softmax(-1))
        parts.append(chains[-1] @ features)
    return torch.cat(parts, 1) + layer.offset, chains


def words_of(graph):
    dense = torch.zeros(graph.n, int(graph.words.max()) + 1)
    dense[graph.places, graph.words] = graph.values
    return dense


def test_a_layer_is_attention_over_neighbours(gat, graph):
    torch.manual_seed(0)
    network = gat.Network(int(graph.words.max()) + 1, 2, None)
    x = words_of(graph)
    assert torch.allclose(x.sum(1), torch.ones(graph.n))
    first, _ = dense_attention(network.first, graph, x)
    expected, _ = dense_attention(network.second, graph, elu(first))
    torch.testing.assert_close(network(graph, False, False), expected)


def test_drawn_layers_have_soft_attention_as_their_mean(gat, graph):
    torch.manual_seed(0)
    network = gat.Network(int(graph.words.max()) + 1, 2, WeibullWeights(50.0))
    soft = network(graph, False, False)
    drawn = torch.stack([network(graph, False, True) for _ in range(200)])
    assert bool((drawn.std(0) > 0).any())
    torch.testing.assert_close(drawn.mean(0), soft, atol=0.01, rtol=0.01)
    (chain, *_) = dense_attention(network.first, graph, words_of(graph))[1]
    logs = chain[graph.target, graph.source][:, None].log()
    again = gat.log_softmax(logs, graph.target, graph.n)
    torch.testing.assert_close(again, logs)


@pytest.mark.parametrize("family", [None, WeibullWeights(10.0)], ids=str)
def test_networks_learn_and_runs_repeat(gat, graph, family):
    run = gat.Run(family, 0.1)
    one = gat.one_run(run, graph, seed=0, epochs=60)
    again = gat.one_run(run, graph, seed=0, epochs=60)
    assert one["accuracy"] >= 0.9
    assert {k: v for k, v in one.items() if k != "seconds"} == {
        k: v for k, v in again.items() if k != "seconds"
    }
    if family is None:
        assert one["drawn: nll"] == pytest.approx(one["nll"], abs=1e-6)
        assert one["drawn: pavpu"] == pytest.approx(1 - one["accuracy"])
    else:
        assert one["drawn: nll"] != one["nll"]
    assert one["scaled nll"] != one["nll"]


def test_arms_start_from_the_same_weights(gat):
    networks = []
    for family in (None, WeibullWeights(10.0)):
        torch.manual_seed(5)
        networks.append(gat.Network(12, 2, family))
    soft, drawn = networks
    for name, parameter in soft.named_parameters():
        if "prior" not in name:
            assert torch.equal(parameter, drawn.get_parameter(name))


def test_calibration_error_by_hand(gat):
    sure = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    labels = torch.tensor([0, 1, 1, 1])
    expected = (abs(1 - 1.8) + abs(2 - 1.2)) / 4
    assert gat.calibration_error(sure, labels) == pytest.approx(expected)


def test_certain_and_right_or_uncertain_and_wrong_are_counted(gat):
    steady = torch.tensor([[3.0, 0.0], [3.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    noise = torch.tensor([1.0, -1.0, 1.1, -1.1, 0.9, -0.9])[:, None, None]
    scale = torch.tensor([0.1, 0.1, 1.0, 1.0])[None, :, None]
    samples = steady + noise * scale * torch.tensor([1.0, 0.0])
    chosen, labels = torch.tensor([0, 0, 0, 0]), torch.tensor([0, 1, 0, 1])
    # Certain: the first two. Right of them one; uncertain and wrong: the last.
    assert gat.accuracy_and_certainty(samples, chosen, labels) == 0.5
    frozen = steady.expand(6, 4, 2)
    assert gat.accuracy_and_certainty(frozen, chosen, labels) == 0.5


def test_temperature_undoes_a_scale(gat):
    torch.manual_seed(0)
    logits = 2 * torch.randn(4000, 3)
    labels = torch.distributions.Categorical(logits=logits).sample()
    assert gat.best_temperature(5 * logits, labels) == pytest.approx(5, rel=0.08)


def test_paired_intervals_are_scipys(script):
    draw = np.random.default_rng(0)
    ours, base = draw.normal(size=(2, 7))
    gap, width = script("bayesian").paired(ours, base)
    low, high = stats.ttest_rel(ours, base).confidence_interval(0.95)
    assert (gap - width, gap + width) == pytest.approx((low, high))


def test_the_area_counts_pairs(script):
    area = script("bayesian_rank").area
    assert area([1.0, 2.0, 2.0, 0.0], [False, True, False, True]) == 0.375
    assert area([3.0, 1.0], [True, False]) == 1


def test_mirrored_ranks_are_put_back(script):
    grid = TokenGrid(rows=2, columns=3)
    values = torch.arange(6.0)
    ranker = SimpleNamespace(attention=SimpleNamespace(grid=grid), heads=None)
    ranker = type("Fixed", (), {**vars(ranker), "__call__": lambda *_: values})()
    undone = script("bayesian_rank").undone
    assert undone("noise", ranker).tolist() == [0, 1, 2, 3, 4, 5]
    assert undone("mirrored", ranker).tolist() == [2, 1, 0, 5, 4, 3]
