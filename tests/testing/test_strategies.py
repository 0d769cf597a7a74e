"""Strategies draw what they promise."""

import numpy as np
import pytest
import torch
from hypothesis import find, given, settings

from attnchain import reference
from attnchain.testing import assert_distribution, assert_stochastic, strategies
from attnchain.testing.hard import HARD


@given(strategies.stochastic_matrices())
def test_matrices_are_stochastic(matrix):
    assert matrix.dtype == torch.float64
    assert_stochastic(matrix, atol=1e-14)


@given(strategies.reducible_matrices())
def test_reducible_matrices_are_reducible(matrix):
    assert not reference.is_irreducible(matrix.numpy())


@given(strategies.periodic_matrices())
def test_periodic_matrices_have_eigenvalues_on_the_circle(matrix):
    assert reference.is_irreducible(matrix.numpy())
    assert reference.spectral_gap(matrix.numpy()) < 1e-10


@pytest.mark.parametrize("kind", HARD)
def test_hard_matrices_are_stochastic(kind):
    @given(strategies.hard_matrices(kinds=[kind]))
    def stochastic(matrix):
        assert matrix.dtype == torch.float64
        assert_stochastic(matrix, atol=1e-14)

    stochastic()


def hard(kind, n=12):
    return HARD[kind](n, torch.Generator().manual_seed(1)).numpy()


def test_hard_kinds_are_what_they_say():
    values = {kind: np.abs(reference.eigenvalues(hard(kind))) for kind in HARD}
    assert values["equal_rows"][1] < 1e-12
    assert values["low_rank"][2] < 1e-12
    assert values["sink"][1] < 1e-9
    assert values["self_looking"].min() > 0.99
    assert hard("unseen").max(0).min() < 1e-11
    assert hard("barely_entered").max(0).min() < 1e-19
    assert 0.9 < values["nearly_decomposable"][1] < 1 - 1e-13
    assert values["round_trip"].min() > 1 - 1e-12
    assert not reference.is_irreducible(hard("transient"))
    assert reference.is_irreducible(hard("drift"))


@given(strategies.distributions(4))
def test_distributions_are_distributions(vector):
    assert_distribution(vector, atol=1e-14)


@given(strategies.attention_inputs(dtypes=(torch.float16, torch.bfloat16)))
def test_every_query_may_see_a_key(drawn):
    assert drawn.q.dtype == drawn.k.dtype
    assert drawn.q.isfinite().all()
    matrix = reference.attention(
        drawn.q.double().numpy(),
        drawn.k.double().numpy(),
        mask=None if drawn.mask is None else drawn.mask.numpy(),
        causal=drawn.causal,
    )
    assert_stochastic(torch.from_numpy(matrix), atol=1e-12)


def test_single_states_and_huge_scores_are_drawn():
    drawn = strategies.attention_inputs()
    many = settings(max_examples=2000, database=None, derandomize=True)
    find(drawn, lambda x: len(x.q) == 1, settings=many)
    find(drawn, lambda x: (x.q @ x.k.T).abs().max() > 5000, settings=many)
    find(drawn, lambda x: x.mask is not None and x.causal, settings=many)
