"""iSeg's refinement: roots, limit and failure; refusals."""

import numpy as np
import pytest
import torch
from scipy import optimize

from attnchain.errors import ArgumentError, NotStochasticError
from attnchain.methods.iseg import entropy_reduced, refine_map
from attnchain.operators import as_transition
from attnchain.testing import assert_stochastic

ROOTS = {0.002: 0.0039, 0.015: 0.0192, 0.1: 0.0713, 0.2: 0.1071}


def random_chain(n=30, seed=0, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    scores = spread * torch.randn(n, n, generator=generator, dtype=torch.float64)
    return as_transition(scores.softmax(-1))


def three_blocks(size=20, leak=(0.2, 0.4)):
    """Three blocks in a row, the second and third coupled more, with noise inside."""
    generator = torch.Generator().manual_seed(3)
    weights = torch.rand(3 * size, 3 * size, generator=generator, dtype=torch.float64)
    coupling = torch.tensor(
        [[1, leak[0], 0.01], [leak[0], 1, leak[1]], [0.01, leak[1], 1]]
    )
    weights = weights * coupling.double().repeat_interleave(size, 0).repeat_interleave(
        size, 1
    )
    return as_transition(weights / weights.sum(-1, keepdim=True))


@pytest.mark.parametrize(("strength", "printed"), ROOTS.items())
def test_steps_below_the_root_are_dropped(strength, printed):
    root = optimize.brentq(lambda r: r + strength * np.log10(np.e * r), 1e-9, 1)
    assert abs(root - printed) < 5e-5
    chain = random_chain()
    matrix = chain.to_dense()
    relative = matrix / matrix.max(0).values
    thinned = entropy_reduced(chain, strength).to_dense()
    assert torch.equal(thinned > 0, relative > root)


def test_kept_steps_follow_the_formula():
    chain = random_chain()
    matrix = chain.to_dense()
    relative = matrix / matrix.max(0).values
    expected = (relative + 0.1 * (np.e * relative).log10()).clamp_min(0)
    assert abs(float(expected.max()) - (1 + 0.1 * np.log10(np.e))) < 1e-12
    expected = expected / expected.sum(1, keepdim=True)
    reduced = entropy_reduced(chain, 0.1)
    assert_stochastic(reduced)
    torch.testing.assert_close(reduced.to_dense(), expected)


def test_rows_become_more_certain():
    chain = random_chain(spread=1.0)

    def entropy(transition):
        return float(torch.special.entr(transition.to_dense()).sum(-1).mean())

    entropies = [
        entropy(chain),
        *(entropy(entropy_reduced(chain, s)) for s in (0.05, 0.2)),
    ]
    assert entropies == sorted(entropies, reverse=True)


def test_a_token_that_loses_all_its_steps():
    """Token 2 spreads what every other token gives to one."""
    n = 50
    matrix = torch.eye(n)
    matrix[2] = 1 / n
    matrix[0] = torch.nn.functional.one_hot(torch.tensor(2), n)
    matrix[1, :2] = 0.5
    chain = as_transition(matrix)
    assert_stochastic(entropy_reduced(chain, 0.005))
    with pytest.raises(NotStochasticError, match=r"token \[2\].*smaller strength"):
        entropy_reduced(chain, 0.1)


@pytest.mark.parametrize("strength", [0, -0.1])
def test_strengths_are_positive(strength):
    with pytest.raises(ArgumentError, match="strength"):
        entropy_reduced(random_chain(), strength)


def test_many_bounces_reach_the_second_right_eigenvector():
    chain = three_blocks()
    values, vectors = np.linalg.eig(chain.to_dense().numpy())
    second = vectors[:, np.argsort(-abs(values))[1]].real
    cue = torch.zeros(60).double()
    cue[:5] = 1
    refined = refine_map(chain, cue, 400).numpy()
    assert abs(np.corrcoef(refined, second)[0, 1]) > 1 - 1e-9
    assert refined.min() == 0
    assert abs(refined.sum() - 1) < 1e-12


def block_accuracy(bounces):
    """Arg-max over three noisy cues, one for each block."""
    chain = three_blocks()
    generator = torch.Generator().manual_seed(5)
    truth = torch.arange(3).repeat_interleave(20)
    cues = torch.nn.functional.one_hot(truth, 3).T.double()
    cues = cues + 1.5 * torch.rand(cues.shape, generator=generator)
    return float((refine_map(chain, cues, bounces).argmax(0) == truth).double().mean())


def test_few_bounces_help_and_many_forget_the_class():
    few, none, many = (block_accuracy(n) for n in (2, 0, 100))
    assert few > 0.95 > none
    assert many < 0.7


def test_the_formula_of_a_bounce():
    chain, cue = random_chain(), torch.rand(30).double()
    matrix = chain.to_dense()
    expected = (cue - cue.min()) / (cue - cue.min()).sum()
    for _ in range(3):
        expected = matrix @ expected
        expected = expected - expected.min()
        expected = expected / expected.sum()
    torch.testing.assert_close(refine_map(chain, cue, 3), expected)


def test_a_cue_without_contrast():
    with pytest.raises(ArgumentError, match="constant"):
        refine_map(random_chain(), torch.ones(30))


@pytest.mark.parametrize("bounces", [-1, 1.5])
def test_bounces_are_whole(bounces):
    with pytest.raises(ArgumentError, match="whole number"):
        refine_map(random_chain(), torch.rand(30), bounces)


def test_a_cue_that_is_not_finite():
    with pytest.raises(NotStochasticError, match="cue"):
        refine_map(random_chain(), torch.full((30,), torch.nan))
