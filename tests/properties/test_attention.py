"""Properties of attention chains, for any queries, keys and masks."""

import hypothesis.strategies as st
import numpy as np
import torch
from hypothesis import given, settings

from attnchain import reference
from attnchain.markov import stationary
from attnchain.operators import AttentionTransition, ColumnNormalized, Damped
from attnchain.testing import assert_adjoint, assert_stochastic, strategies

ALL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
backends = st.sampled_from(["dense", "tiled"])
inputs = strategies.attention_inputs(dtypes=ALL)


def as_chain(drawn, backend):
    return AttentionTransition(
        drawn.q, drawn.k, mask=drawn.mask, causal=drawn.causal, backend=backend
    )


def as_matrix(drawn):
    """Softmax in float64 of the numbers as given."""
    return reference.attention(
        drawn.q.double().numpy(),
        drawn.k.double().numpy(),
        mask=None if drawn.mask is None else drawn.mask.numpy(),
        causal=drawn.causal,
    )


def rounding(drawn, dtype):
    """How far rounding of the scores may move a row in L1 (twice a score's error)."""
    d = drawn.q.shape[-1]
    sums = (drawn.q.abs().double() @ drawn.k.abs().double().T).max() * d**-0.5
    bias = 0.0
    if drawn.mask is not None and drawn.mask.is_floating_point():
        bias = float(drawn.mask[drawn.mask.isfinite()].abs().max())
    return (2 * (d + 4) * (float(sums) + bias) + 16) * torch.finfo(dtype).eps


@settings(max_examples=150)
@given(inputs, backends)
def test_the_matrix_is_the_softmax_of_the_given_numbers(drawn, backend):
    chain = as_chain(drawn, backend)
    error = np.abs(chain.to_dense().double().numpy() - as_matrix(drawn)).sum(-1)
    assert error.max() <= rounding(drawn, chain.dtype)


@settings(max_examples=100)
@given(inputs, backends)
def test_rows_sum_to_one_whatever_the_scores(drawn, backend):
    chain = as_chain(drawn, backend)
    allowed = 16 * torch.finfo(chain.dtype).eps
    assert_stochastic(chain, atol=allowed)
    assert_adjoint(chain)


@given(inputs, backends, st.data())
def test_renaming_tokens_renames_states(drawn, backend, data):
    n = len(drawn.q)
    order = torch.tensor(data.draw(st.permutations(range(n))))
    free = drawn._replace(causal=False)
    mask = None
    if free.mask is not None:
        columns = free.mask[:, order]
        mask = columns[order] if len(columns) == n > 1 else columns
    moved = free._replace(q=free.q[order], k=free.k[order], mask=mask)
    expected = as_chain(free, backend).to_dense()[order][:, order]
    allowed = rounding(free, expected.dtype)
    found = as_chain(moved, backend).to_dense()
    torch.testing.assert_close(found, expected, atol=2 * allowed, rtol=0)


@given(inputs, backends, st.data())
def test_any_constant_added_to_the_scores_of_a_row_changes_nothing(
    drawn, backend, data
):
    n = len(drawn.q)
    shifts = st.sampled_from([0.0, -50.0, 1e4, -1e30, 1e30])
    shift = torch.tensor(data.draw(st.lists(shifts, min_size=n, max_size=n)))
    plain = AttentionTransition(
        drawn.q, drawn.k, causal=drawn.causal, backend=backend
    ).to_dense()
    shifted = AttentionTransition(
        drawn.q,
        drawn.k,
        mask=shift[:, None].expand(n, n),
        causal=drawn.causal,
        backend=backend,
    ).to_dense()
    allowed = 2 * rounding(drawn._replace(mask=None), plain.dtype)
    torch.testing.assert_close(shifted, plain, atol=allowed, rtol=0)


@settings(max_examples=100)
@given(inputs, st.booleans())
def test_token_rank_is_within_its_bound_of_the_exact_one(drawn, outgoing):
    chain = Damped(as_chain(drawn, "auto"), 0.9)
    found = stationary(ColumnNormalized(chain) if outgoing else chain)
    direction = "outgoing" if outgoing else "incoming"
    expected = reference.token_rank(as_matrix(drawn), 0.9, direction=direction)
    error = np.abs(found.distribution.numpy() - expected).sum()
    assert error <= float(found.error_bound) <= 1e-6
