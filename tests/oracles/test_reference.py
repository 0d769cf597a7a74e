"""Fast layers against the dense twin, on attention as it comes out of a model."""

import numpy as np
import pytest
import torch
from tests.operators.builders import attention, queries_and_keys

from attnchain import reference
from attnchain.markov import mix, second_eigenvalue, stationary
from attnchain.operators import (
    ColumnNormalized,
    Damped,
    Restricted,
)

TOKENS, PREFIX = 37, 1


@pytest.fixture(params=[torch.float16, torch.float32, torch.float64], ids=str)
def heads(request):
    """Six heads of 36 patches and one class token, and their dense twins."""
    q, k = queries_and_keys(6, TOKENS, 8, size=1.5, dtype=request.param)
    return attention(q, k)


def test_patch_chain_of_every_head(heads):
    transition, twins = heads
    patches = transition.restrict(slice(PREFIX, None))
    kept = np.arange(PREFIX, TOKENS)
    expected = [reference.restricted(twin, kept) for twin in twins]
    found = second_eigenvalue(patches, tolerance=1e-5).modulus.numpy()
    moduli = [abs(reference.second_eigenvalue(p)) for p in expected]
    np.testing.assert_allclose(found, moduli, atol=1e-5)


@pytest.mark.parametrize("direction", ["incoming", "outgoing"])
def test_token_rank_of_every_head(heads, direction):
    transition, twins = heads
    chain = Damped(transition, 0.99)
    found = stationary(chain if direction == "incoming" else ColumnNormalized(chain))
    expected = [reference.token_rank(twin, direction=direction) for twin in twins]
    error = np.abs(found.distribution.numpy() - np.array(expected)).sum(-1)
    assert (error <= found.error_bound.numpy()).all()
    assert (found.error_bound <= 1e-6).all()


def test_token_rank_of_the_weighted_mixture_of_patch_chains(heads):
    transition, twins = heads
    patches = transition.restrict(slice(PREFIX, None))
    parts = [reference.restricted(p, np.arange(PREFIX, TOKENS)) for p in twins]
    mixed = reference.mixture(parts, reference.lambda2_weights(parts))
    found = stationary(Damped(mix(patches), 0.99)).distribution.numpy()
    np.testing.assert_allclose(found, reference.token_rank(mixed), atol=2e-5)


def test_restricting_the_mixture_of_all_tokens(heads):
    transition, twins = heads
    keep = torch.arange(PREFIX, TOKENS)
    chain = Restricted(mix(transition, "uniform"), keep)
    mixed = reference.mixture(list(twins), [1 / 6] * 6)
    expected = reference.restricted(mixed, keep.numpy())
    np.testing.assert_allclose(chain.to_dense(), expected, atol=2e-6)
