"""Random chains: the distribution of what is asked of them."""

import pytest
import torch
from scipy import stats

from attnchain.errors import ArgumentError, ShapeError
from attnchain.markov import mix, second_eigenvalue, stationary
from attnchain.methods import (
    DirichletWeights,
    Draws,
    LogNormalWeights,
    RandomTransition,
    WeibullWeights,
)
from attnchain.operators import as_transition
from attnchain.testing import assert_stochastic

FAMILIES = [WeibullWeights(5.0), LogNormalWeights(0.5), DirichletWeights(20.0)]
TWO = as_transition(torch.tensor([[0.7, 0.3], [0.2, 0.8]], dtype=torch.float64))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def heads(*shape, n=6):
    scores = 2 * torch.randn(*shape, n, n, generator=generator(9), dtype=torch.float64)
    return as_transition(scores.softmax(-1))


def pi(chain):
    return stationary(chain).distribution


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_draws_are_chains_of_the_same_kind(family):
    random = RandomTransition(heads(2, 3), family)
    one, other = random.sample(generator()), random.sample(generator(1))
    assert_stochastic(one)
    assert one.shape == (2, 3, 6, 6)
    assert not torch.allclose(one.to_dense(), other.to_dense())
    again = random.sample(generator())
    assert torch.equal(one.to_dense(), again.to_dense())


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_steps_that_are_impossible_stay_impossible(family):
    ring = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.5, 0.5, 0.0]])
    drawn = RandomTransition(as_transition(ring), family).sample(generator()).to_dense()
    assert torch.equal(drawn == 0, ring == 0)


def test_weights_that_hardly_vary_leave_every_answer():
    chain = heads()
    for family in (WeibullWeights(1e8), LogNormalWeights(1e-8), DirichletWeights(1e16)):
        found = RandomTransition(chain, family).ask(
            lambda c: second_eigenvalue(c).modulus, draws=40, generator=generator()
        )
        low, high = found.interval()
        assert float(high - low) < 1e-6
        assert float(found.own) == pytest.approx(float(low), abs=1e-6)


def test_two_states_answer_as_their_known_law():
    """A row of Dirichlet(c p) is a beta variable, and pi_0 = b / (a + b)."""
    found = RandomTransition(TWO, DirichletWeights(20.0)).ask(
        pi, draws=4000, generator=generator()
    )
    draw = {"size": 200_000, "random_state": 5}
    a = stats.beta(20 * 0.3, 20 * 0.7).rvs(**draw)
    b = stats.beta(20 * 0.2, 20 * 0.8).rvs(**{**draw, "random_state": 6})
    expected = stats.ecdf(b / (a + b)).cdf
    drawn = found.drawn[:, 0].numpy()
    assert stats.kstest(drawn, expected.evaluate).pvalue > 1e-3
    low, high = found.interval(0.9)
    share = expected.evaluate(float(high[0])) - expected.evaluate(float(low[0]))
    assert share == pytest.approx(0.9, abs=0.02)
    narrow = stats.ecdf(1.1 * b / (a + b)).cdf
    assert stats.kstest(drawn, narrow.evaluate).pvalue < 1e-3


def test_lambda2_of_two_states_is_its_closed_form():
    """lambda_2 = 1 - a - b, of the very draws."""
    random = RandomTransition(TWO, WeibullWeights(4.0))
    found = random.ask(
        lambda c: second_eigenvalue(c).modulus, draws=50, generator=generator(2)
    )
    noise = generator(2)
    for answer in found.drawn:
        matrix = random.sample(noise).to_dense()
        expected = abs(1 - float(matrix[0, 1] + matrix[1, 0]))
        assert float(answer) == pytest.approx(expected, abs=1e-6)


def test_only_dirichlet_rows_have_the_chain_as_their_mean():
    chain = heads()
    biases = {}
    for family in (LogNormalWeights(0.5), DirichletWeights(20.0)):
        found = RandomTransition(chain, family).ask(
            lambda c: c.to_dense(), draws=4000, generator=generator()
        )
        error = found.drawn.std(0) / 4000**0.5
        biases[type(family)] = float((found.bias.abs() / error).max())
        largest = found.own.amax(-1, keepdim=True) == found.own
        if isinstance(family, LogNormalWeights):
            assert float(found.bias[largest].mean()) < -0.005
    assert biases[DirichletWeights] < 5
    assert biases[LogNormalWeights] > 10


def test_batches_may_be_mixed_in_the_question():
    random = RandomTransition(heads(4), WeibullWeights(10.0))
    found = random.ask(
        lambda layer: pi(mix(layer, "uniform")), draws=40, generator=generator()
    )
    assert found.drawn.shape == (40, 6)
    single = RandomTransition(heads(4)[0], WeibullWeights(10.0)).ask(
        pi, draws=40, generator=generator()
    )
    # Independent noise of four heads averages out.
    assert float(found.drawn.std(0).mean()) < float(single.drawn.std(0).mean())


def draws_of(*rows):
    return Draws(torch.tensor(rows[0]).double(), torch.tensor(rows).double())


def test_ranks_and_the_top_are_counted_by_hand():
    found = draws_of([0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.4, 0.4, 0.2])
    assert found.ranks().own.tolist() == [1, 2, 3]
    assert found.ranks().drawn.tolist() == [[1, 2, 3], [3, 1, 2], [1, 1, 3]]
    assert found.among_top(1).tolist() == pytest.approx([2 / 3, 2 / 3, 0])
    assert found.among_top(3).tolist() == [1, 1, 1]


def test_intervals_are_numpys_quantiles():
    values = torch.randn(100, 3, generator=generator(), dtype=torch.float64)
    low, high = Draws(values[0], values).interval(0.9)
    ordered = values.sort(0).values
    for end, position in ((low, 0.05 * 99), (high, 0.95 * 99)):
        before = int(position)
        share = position - before
        expected = (1 - share) * ordered[before] + share * ordered[before + 1]
        assert torch.allclose(end, expected)


def test_intervals_need_draws_beyond_their_ends():
    found = draws_of(*[[float(i)] for i in range(39)])
    with pytest.raises(ArgumentError, match="40 draws or more"):
        found.interval()
    low, high = draws_of(*[[float(i)] for i in range(40)]).interval()
    assert float(low) < 1.5
    assert float(high) > 37.5
    for wrong in (0.0, 1.0, -0.5, 95, None, float("nan")):
        with pytest.raises(ArgumentError, match="level"):
            found.interval(wrong)


def test_questions_are_checked():
    random = RandomTransition(TWO, FAMILIES[0])
    with pytest.raises(ArgumentError, match="answer"):
        random.ask(lambda _: 1.0, draws=2, generator=generator())
    with pytest.raises(ShapeError, match="answer"):
        random.ask(lambda _: torch.tensor(1), draws=2, generator=generator())
    growing = iter(range(1, 9))
    with pytest.raises(ShapeError, match="one shape"):
        random.ask(lambda _: torch.ones(next(growing)), draws=2, generator=generator())
    for wrong in (1, 0, 2.5, None):
        with pytest.raises(ArgumentError, match="draws"):
            random.ask(pi, draws=wrong, generator=generator())
    with pytest.raises(ShapeError, match="scalars"):
        Draws(torch.tensor(1.0), torch.ones(3)).ranks()
    with pytest.raises(ArgumentError, match="count"):
        draws_of([0.5, 0.5]).among_top(3)


def test_what_is_no_random_chain_is_refused():
    with pytest.raises(ArgumentError, match="family must be"):
        RandomTransition(TWO, 10.0)
    with pytest.raises(ArgumentError, match="chain"):
        RandomTransition(TWO.to_dense(), FAMILIES[0])
    texts = heads(2).restrict(torch.tensor([[True] * 6, [True] * 4 + [False] * 2]))
    with pytest.raises(ShapeError, match="padding"):
        RandomTransition(texts, FAMILIES[0])
