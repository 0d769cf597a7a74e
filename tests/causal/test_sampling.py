"""Samples against enumeration; seeds, checkpoints and mistakes."""

import numpy as np
import pytest
from scipy.signal import lfilter
from tests.causal.data import discrete, gaussian

from attnchain.causal import (
    BDeu,
    ClassSample,
    ClassSampler,
    EquivalenceClass,
    GaussianBic,
    UniformScore,
    class_chain,
    exact_posterior,
)
from attnchain.errors import ArgumentError, OutputError

PROCESSES = ("reversible", "zigzag")
SCORES = {
    "uniform": UniformScore(4),
    "bic": GaussianBic(gaussian()),
    "bdeu": BDeu(discrete()),
}


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("balance", ["metropolis", "sqrt", "barker"])
@pytest.mark.parametrize("name", SCORES)
def test_edges_of_the_posterior_are_those_by_enumeration(name, process, balance):
    score = SCORES[name]
    sampler = ClassSampler(score, process=process, balance=balance, generator=3)
    found = sampler.run(8000).after(200).edge_probabilities()
    exact = exact_posterior(score).edge_probabilities()
    for kind in ("adjacency", "directed"):
        expected = getattr(exact, kind)
        miss = abs(getattr(found, kind) - expected)
        rare = np.sqrt(expected * (1 - expected) / 1000)  # seen too seldom to estimate
        error = np.maximum(getattr(found, f"{kind}_error"), rare)
        assert miss.max() < 0.05
        assert (miss <= 6 * error + 1e-9).all()
    assert found.adjacency_error.max() < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("process", PROCESSES)
def test_classes_have_their_probabilities(process):
    exact = exact_posterior(SCORES["bic"])
    sample = ClassSampler(SCORES["bic"], process=process, generator=5).run(20_000)
    found = sample.after(500).posterior()
    shares = dict(zip(found.classes, found.probabilities, strict=True))
    missed = [
        abs(p - shares.get(graph, 0.0))
        for graph, p in zip(exact.classes, exact.probabilities, strict=True)
    ]
    assert sum(missed) / 2 < 0.06
    assert found.probabilities.sum() == pytest.approx(1)
    assert found.classes[0] == exact.classes[0]


@pytest.mark.slow
@pytest.mark.parametrize("process", PROCESSES)
def test_moves_per_independent_sample_are_those_of_the_matrix(process):
    chain = class_chain(UniformScore(4), process=process)
    exact = chain.moves_per_independent_sample([g.n_edges for g in chain.classes])
    sampler = ClassSampler(UniformScore(4), process=process, generator=2)
    found = sampler.run(40_000).after(100).moves_per_independent_sample()
    assert found == pytest.approx(exact, rel=0.3)


@pytest.mark.slow
def test_momentum_crosses_the_space_with_fewer_moves():
    """Golden, six nodes: 10.3 against 2.7 moves for an independent edge count."""
    found = {}
    for process in PROCESSES:
        sampler = ClassSampler(UniformScore(6), process=process, generator=1)
        found[process] = sampler.run(20_000).after(100).moves_per_independent_sample()
    assert 7 < found["reversible"] < 14
    assert found["zigzag"] * 2.5 < found["reversible"]


def test_seeds_repeat_and_differ():
    runs = [ClassSampler(SCORES["bic"], generator=seed).run(300) for seed in (1, 1, 2)]
    assert np.array_equal(runs[0].graphs, runs[1].graphs)
    assert np.array_equal(runs[0].log_holding, runs[1].log_holding)
    assert not np.array_equal(runs[0].changes[:50], runs[2].changes[:50])
    given = ClassSampler(SCORES["bic"], generator=np.random.default_rng(1)).run(300)
    assert np.array_equal(runs[0].graphs, given.graphs)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("kind", ["PCG64", "MT19937", "Philox", "SFC64"])
def test_a_run_taken_up_is_the_run_not_stopped(tmp_path, process, kind):
    def generator():
        return np.random.Generator(getattr(np.random, kind)(7))

    score = SCORES["bdeu"]
    whole = ClassSampler(score, process=process, generator=generator()).run(400)
    path = tmp_path / "run.npz"
    ClassSampler(score, process=process, generator=generator()).run(
        150, checkpoint=path
    )
    resumed = ClassSampler.load(path, BDeu(discrete()))
    assert resumed.process == process
    assert resumed.run(150).n_moves == 150
    sample = resumed.run(400)
    assert np.array_equal(sample.graphs, whole.graphs)
    assert np.array_equal(sample.log_holding, whole.log_holding)
    assert np.array_equal(sample.changes, whole.changes)
    assert list(tmp_path.iterdir()) == [path]


def test_checkpoints_are_written_on_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr("attnchain.causal.sampler._SAVE_EVERY", 0.0)
    path, seen = tmp_path / "run.npz", []
    sampler = ClassSampler(UniformScore(3))
    monkeypatch.setattr(sampler, "save", seen.append)
    sampler.run(300, checkpoint=path)
    assert len(seen) >= 4


def test_what_cannot_be_taken_up_is_refused(tmp_path):
    path = tmp_path / "run.npz"
    with pytest.raises(ArgumentError, match="holds no run"):
        ClassSampler.load(path, SCORES["bic"])
    ClassSampler(SCORES["bic"]).run(10, checkpoint=path)
    with pytest.raises(ArgumentError, match="another target"):
        ClassSampler.load(path, GaussianBic(gaussian(seed=1)))
    with pytest.raises(ArgumentError, match="another target"):
        ClassSampler.load(path, UniformScore(4))
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"text"):
        path.write_bytes(broken)
        with pytest.raises(ArgumentError, match="holds no run"):
            ClassSampler.load(path, SCORES["bic"])
    np.savez(path, other=np.zeros(3))
    with pytest.raises(ArgumentError, match="holds no run"):
        ClassSampler.load(path, SCORES["bic"])


def test_a_checkpoint_that_cannot_be_written(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        ClassSampler(UniformScore(3)).run(5, checkpoint=tmp_path / "no" / "run.npz")


def test_a_checkpoint_never_replaces_another_run(tmp_path):
    path = tmp_path / "run.npz"
    sampler = ClassSampler(UniformScore(4), generator=1)
    sampler.run(200, checkpoint=path)
    sampler.run(300, checkpoint=path)  # more of the same run
    kept = path.read_bytes()
    for seed in (1, 2):  # this run from its start, and another one
        with pytest.raises(ArgumentError, match="holds another run, or more"):
            ClassSampler(UniformScore(4), generator=seed).run(10, checkpoint=path)
    assert path.read_bytes() == kept
    assert ClassSampler.load(path, UniformScore(4)).run(1).n_moves == 300
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ArgumentError, match="holds no run"):
        sampler.run(10, checkpoint=tmp_path / "notes.txt")


def test_a_score_that_is_no_number_is_refused():
    class Broken:
        names = ("a", "b", "c")

        def local(self, node, parents):
            return float("nan") if parents else 0.0

    with pytest.raises(ArgumentError, match="is not a finite number"):
        ClassSampler(Broken()).run(5)


def test_your_own_score_is_sampled():
    class Sparse:
        names = ("a", "b", "c")

        def local(self, node, parents):
            return -1.0 * parents.bit_count()

    exact = exact_posterior(Sparse())
    found = ClassSampler(Sparse(), generator=1).run(4000).posterior()
    weights = [np.exp(-graph.n_edges) for graph in exact.classes]
    assert exact.probabilities == pytest.approx(np.array(weights) / sum(weights))
    assert found.probabilities[0] == pytest.approx(exact.probabilities[0], abs=0.03)


def test_progress_goes_to_standard_error(capsys):
    ClassSampler(UniformScore(3)).run(200)
    assert capsys.readouterr() == ("", "")
    ClassSampler(UniformScore(3)).run(200, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "moves" in err
    assert "100%" in err


def test_the_path_is_one_move_after_another():
    sample = ClassSampler(UniformScore(9), generator=4).run(200)
    edges = sample.evaluate(lambda graph: graph.n_edges)
    assert np.array_equal(edges, sample.n_edges)
    assert edges[0] == 0
    assert sample.n_moves == 200
    assert len(sample.graphs) > 200  # turns are rows too
    turns = np.flatnonzero(sample.changes[:-1] == 0)
    assert np.array_equal(sample.graphs[turns], sample.graphs[turns + 1])
    assert sample.weights.sum() == pytest.approx(1)
    rest = sample.after(50)
    assert rest.n_moves == 150
    assert np.array_equal(rest.n_edges, sample.n_edges[-len(rest.n_edges) :])
    assert np.array_equal(sample.after(0).graphs, sample.graphs)


def test_a_start_is_taken():
    full = EquivalenceClass.from_graph(np.triu(np.ones((5, 5)), 1))
    sample = ClassSampler(UniformScore(5), start=full).run(10)
    assert sample.n_edges[:3].tolist() == [10, 10, 9]  # turns first: no more to insert


def test_effective_size_of_independent_rows_is_their_number():
    rows = 20_000
    rng = np.random.default_rng(0)
    blank = np.zeros((rows, 2, 1), np.uint8)
    sample = ClassSample(("a", "b"), blank, np.zeros(rows), np.ones(rows, np.int8))
    white = rng.standard_normal(rows)
    assert sample.effective_sample_size(white) == pytest.approx(rows, rel=0.4)
    for memory in (0.9, 0.99):  # 19 and 199 rows for an independent one
        slow = lfilter([1.0], [1.0, -memory], white)
        expected = rows * (1 - memory) / (1 + memory)
        assert sample.effective_sample_size(slow) == pytest.approx(expected, rel=0.5)
    with pytest.raises(ArgumentError, match="too short: 20000 moves hold"):
        sample.effective_sample_size(lfilter([1.0], [1.0, -0.999], white))


def test_holding_times_weigh_rows():
    graphs = np.array([[[0], [0]], [[2], [1]]], np.uint8)
    sample = ClassSample(("a", "b"), graphs, np.log([1.0, 3.0]), np.array([1, -1]))
    found = sample.posterior()
    assert found.probabilities.tolist() == [0.75, 0.25]
    assert found.classes[0] == EquivalenceClass((0, 0), (2, 1))
    assert found.edge_probabilities().adjacency.tolist() == [[0, 0.75], [0.75, 0]]


def test_pairs_are_a_table():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(gaussian(), columns=list("abcd"))
    edges = ClassSampler(GaussianBic(frame)).run(500).edge_probabilities()
    table = pandas.DataFrame(edges.pairs())
    assert table.shape == (6, 6)
    assert table.adjacent.is_monotonic_decreasing
    first = table.iloc[0]
    i, j = (list("abcd").index(name) for name in (first["first"], first["second"]))
    assert first["forward"] == edges.directed[i, j]
    assert first["adjacent"] == edges.adjacency[i, j]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"process": "zig-zag"}, "process must be one of"),
        ({"balance": "min"}, "balance must be one of"),
        ({"start": EquivalenceClass.empty(3)}, "of 4 nodes"),
        ({"start": np.zeros((4, 4))}, "of 4 nodes"),
        # one directed edge is no completed graph
        ({"start": EquivalenceClass((0, 1, 0, 0), (0,) * 4)}, "directs too much"),
        ({"generator": -1}, "numpy Generator or a seed"),
        ({"generator": "seed"}, "numpy Generator or a seed"),
        ({"generator": 1.5}, "numpy Generator or a seed"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ArgumentError, match=message):
        ClassSampler(UniformScore(4), **settings)


def test_too_little_is_refused():
    with pytest.raises(ArgumentError, match="at least two nodes"):
        ClassSampler(UniformScore(1))
    sampler = ClassSampler(UniformScore(4))
    for moves in (0, 1.5, "3"):
        with pytest.raises(ArgumentError, match="moves"):
            sampler.run(moves)
    short = sampler.run(20)
    with pytest.raises(ArgumentError, match="at least 100 events"):
        short.edge_probabilities()
    with pytest.raises(ArgumentError, match=r"0\.\.19"):
        short.after(20)
    longer = sampler.run(300)
    with pytest.raises(ArgumentError, match="one for each row"):
        longer.effective_sample_size(np.zeros(3))
    with pytest.raises(ArgumentError, match="never change"):
        longer.effective_sample_size(np.zeros(len(longer.changes)))
