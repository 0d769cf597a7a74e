"""The processes as matrices: stationary to rounding, gaps as SciPy's."""

import numpy as np
import pytest
import torch
from scipy.linalg import eigvals
from tests.causal.data import discrete, gaussian

from attnchain.causal import (
    BDeu,
    GaussianBic,
    UniformScore,
    class_chain,
    exact_posterior,
    total_score,
)
from attnchain.errors import ArgumentError
from attnchain.markov import (
    detailed_balance_error,
    mixing_time,
    spectrum,
    stationary,
)
from attnchain.operators import as_transition

PROCESSES = ("reversible", "zigzag")
BALANCES = ("metropolis", "sqrt", "barker")
SCORES = {
    "uniform": UniformScore(4),
    "bic": GaussianBic(gaussian()),
    "bdeu": BDeu(discrete()),
}


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("name", SCORES)
def test_the_target_is_stationary(name, process, balance):
    score = SCORES[name]
    chain = class_chain(score, process=process, balance=balance)
    rates = -chain.generator.diagonal()
    residual = abs(chain.stationary @ chain.generator) / rates.max()
    assert residual.max() < 1e-15
    logs = np.array([total_score(score, graph) for graph in chain.classes])
    expected = np.exp(logs - logs.max())
    assert chain.stationary == pytest.approx(expected / expected.sum(), rel=1e-12)


def test_only_one_of_them_is_reversible():
    chains = {p: class_chain(SCORES["bic"], process=p) for p in PROCESSES}
    flows = {
        p: (chain.stationary[:, None] * chain.generator.toarray())
        for p, chain in chains.items()
    }
    assert abs(flows["reversible"] - flows["reversible"].T).max() < 1e-14
    assert abs(flows["zigzag"] - flows["zigzag"].T).max() > 1e-3
    errors = {
        p: float(detailed_balance_error(c.transition(), torch.tensor(c.stationary)))
        for p, c in chains.items()
    }
    assert errors["reversible"] < 1e-14
    assert errors["zigzag"] > 1e-4


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", SCORES)
def test_the_gap_is_that_of_scipy(name, process):
    chain = class_chain(SCORES[name], process=process)
    rates = np.sort(-eigvals(chain.generator.toarray()).real)
    assert chain.gap_per_move() == pytest.approx(rates[1] / chain.move_rate, rel=1e-6)


@pytest.mark.parametrize(
    ("n", "reversible", "zigzag"), [(3, 0.5542, 0.6111), (4, 0.2642, 0.2718)]
)
def test_momentum_gains_little_on_small_graphs(n, reversible, zigzag):
    chains = [class_chain(UniformScore(n), process=process) for process in PROCESSES]
    gaps = [chain.gap_per_move() for chain in chains]
    assert gaps == pytest.approx([reversible, zigzag], abs=5e-5)
    assert chains[0].move_rate == pytest.approx(2 * chains[1].move_rate)


@pytest.mark.slow
def test_gap_on_five_nodes():
    chain = class_chain(UniformScore(5), process="zigzag")
    assert len(chain.classes) == 2 * 8782
    assert abs(chain.stationary @ chain.generator).max() < 1e-16
    assert chain.gap_per_move() == pytest.approx(0.12511067, rel=1e-6)


def test_it_is_one_of_our_chains():
    chain = class_chain(UniformScore(3))
    transition = chain.transition()
    dense = as_transition(transition.to_dense())
    vector = torch.rand(22, dtype=torch.float64)
    assert torch.allclose(transition.push(vector), dense.push(vector))
    assert torch.allclose(transition.pull(vector), dense.pull(vector))
    law = stationary(transition).distribution
    assert law.numpy() == pytest.approx(np.full(22, 1 / 22), abs=1e-9)
    modes = spectrum(transition, 3).eigenvalues, spectrum(dense, 3).eigenvalues
    assert torch.allclose(*modes, atol=1e-6)
    bounces = float(mixing_time(transition, law))
    assert 1 <= bounces * chain.moves_per_bounce < 5
    halved = transition.to(torch.float32)
    assert halved.dtype == halved.push(vector).dtype == torch.float32
    with pytest.raises(ValueError, match="no batch"):
        transition[0]


@pytest.mark.parametrize("process", PROCESSES)
def test_moves_per_independent_sample_by_the_fundamental_matrix(process):
    chain = class_chain(SCORES["bic"], process=process)
    edges = np.array([graph.n_edges for graph in chain.classes], dtype=float)
    law, rates = chain.stationary, chain.generator.toarray()
    centred = edges - law @ edges
    deviation = np.linalg.inv(np.outer(np.ones(len(law)), law) - rates)
    drawn = 2 * law * centred @ deviation @ centred
    saved = law @ (centred**2 / -rates.diagonal())
    expected = chain.move_rate * (drawn - saved) / (law @ centred**2)
    assert chain.moves_per_independent_sample(edges) == pytest.approx(
        expected, rel=1e-6
    )


def test_the_posterior_of_two_nodes_in_closed_form():
    table = gaussian(n=2, rows=12)
    rows, correlation = len(table), np.corrcoef(table, rowvar=False)[0, 1]
    odds = np.exp(-0.5 * rows * np.log(1 - correlation**2) - 0.5 * np.log(rows))
    edges = exact_posterior(GaussianBic(table)).edge_probabilities()
    assert edges.adjacency[0, 1] == pytest.approx(odds / (1 + odds))
    assert not edges.directed.any()


def test_bad_calls():
    with pytest.raises(ArgumentError, match=r"1\.\.5"):
        exact_posterior(UniformScore(6))
    with pytest.raises(ArgumentError, match="one node"):
        class_chain(UniformScore(1))
    with pytest.raises(ArgumentError, match="process must be one of"):
        class_chain(UniformScore(3), process="zig-zag")
    with pytest.raises(ArgumentError, match="balance must be one of"):
        class_chain(UniformScore(3), balance="min")
