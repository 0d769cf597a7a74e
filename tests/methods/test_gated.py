"""Chains gated by features: what is kept, and refusals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnchain.errors import ArgumentError, NotStochasticError, ShapeError
from attnchain.methods.gated import gated
from attnchain.operators import as_transition
from attnchain.testing import assert_stochastic


def random_chain(n=30, seed=0, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    scores = spread * torch.randn(n, n, generator=generator, dtype=torch.float64)
    return as_transition(scores.softmax(-1))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000), threshold=st.floats(-1, 0.9), n=st.integers(2, 9))
def test_a_gated_chain_steps_between_like_tokens(seed, threshold, n):
    chain = random_chain(n, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    found = gated(chain, features, threshold)
    assert_stochastic(found)
    for i in range(n):
        row = torch.zeros(n, dtype=torch.float64)
        for j in range(n):
            norms = features[i].norm() * features[j].norm()
            cosine = float(features[i] @ features[j] / norms)
            row[j] = chain.to_dense()[i, j] * max(cosine - threshold, 0)
        torch.testing.assert_close(found.to_dense()[i], row / row.sum())


def test_equal_features_gate_nothing():
    chain = random_chain()
    found = gated(chain, torch.ones(30, 2), 0.5).to_dense()
    torch.testing.assert_close(found, chain.to_dense())


def test_gates_that_fit_no_chain_are_refused():
    chain = random_chain(3)
    features = torch.eye(3)
    with pytest.raises(ShapeError, match="a row of features for each"):
        gated(chain, features[:2], 0.3)
    for wrong in (1, -2, None, float("nan")):
        with pytest.raises(ArgumentError, match="threshold must"):
            gated(chain, features, wrong)


def test_a_token_without_steps_left_stays_in_place():
    swapping = as_transition(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    assert torch.equal(gated(swapping, torch.eye(2)).to_dense(), torch.eye(2))


@pytest.mark.parametrize(
    "features",
    [torch.ones(3, 1, 2), torch.ones(3), torch.ones(3, 2).long(), "ones"],
    ids=["cube", "vector", "whole numbers", "text"],
)
def test_features_of_other_kinds_are_refused(features):
    chain = as_transition(torch.full((3, 3), 1 / 3))
    with pytest.raises(ArgumentError, match="features"):
        gated(chain, features)


def test_features_that_are_no_numbers_are_refused():
    chain = as_transition(torch.full((3, 3), 1 / 3))
    with pytest.raises(NotStochasticError, match="features"):
        gated(chain, torch.full((3, 2), float("nan")))
