"""AttentionTransition: huge scores, precision, masks, and what it refuses."""

import numpy as np
import pytest
import torch
from tests.operators.builders import attention, queries_and_keys

from attnchain import reference
from attnchain.errors import (
    ArgumentError,
    MaterializationWarning,
    NotStochasticError,
    ShapeError,
)
from attnchain.operators import AttentionTransition, Damped
from attnchain.testing import assert_stochastic


def score_rounding(q, k, scale):
    """How far float32 rounding can move a row, in L1: twice the error of a score."""
    d = q.shape[-1]
    products = (q.abs().double() @ k.abs().double().mT).max() * scale
    return float(2 * (d + 4) * products * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("backend", ["dense", "tiled"])
@pytest.mark.parametrize("size", [1.0, 10.0, 50.0])
def test_rows_stay_within_the_rounding_of_their_scores(size, backend):
    q, k = queries_and_keys(40, 4, size=size, dtype=torch.float32)
    transition, twin = attention(q, k, backend=backend)
    error = np.abs(transition.to_dense().double().numpy() - twin).sum(-1)
    assert error.max() <= score_rounding(q, k, 0.5) + 1e-6


@pytest.mark.parametrize("backend", ["dense", "tiled"])
def test_rows_sum_to_one_at_scores_of_ten_thousand(backend):
    q, k = queries_and_keys(40, 4, size=100.0, dtype=torch.float32)
    assert (q @ k.T).abs().max() > 1e4
    chain = AttentionTransition(q, k, scale=1.0, backend=backend)
    assert_stochastic(chain, atol=1e-5)
    assert_stochastic(chain.to_dense(), atol=1e-5)


@pytest.mark.parametrize("backend", ["dense", "tiled"])
@pytest.mark.parametrize("n", [3, 7, 8])
def test_equal_keys_share_attention_equally_at_any_score(n, backend):
    q = torch.full((n, 1), 100.0)
    chain = AttentionTransition(q, q, scale=1.0, backend=backend)
    expected = torch.full((n, n), 1 / n)
    torch.testing.assert_close(chain.to_dense(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("backend", ["dense", "tiled"])
def test_half_precision_scores_beyond_its_range_are_computed_in_single(backend):
    q = torch.tensor([[300.0], [-300.0]]).half()
    chain = AttentionTransition(q, q, scale=1.0, backend=backend)
    torch.testing.assert_close(chain.to_dense(), torch.eye(2))


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_the_chain_is_that_of_the_given_half_precision_numbers(half):
    q, k = queries_and_keys(12, 8, dtype=half)
    found = AttentionTransition(q, k).to_dense()
    expected = reference.attention(q.double().numpy(), k.double().numpy())
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_scale_defaults_to_the_root_of_the_head_size():
    q, k = queries_and_keys(4, 16)
    default = AttentionTransition(q, k).to_dense()
    torch.testing.assert_close(
        default, AttentionTransition(q, k, scale=0.25).to_dense()
    )


def test_queries_and_keys_of_different_precision_are_promoted():
    q, k = queries_and_keys(4, 2)
    assert AttentionTransition(q.float(), k).dtype == torch.float64
    assert AttentionTransition(q.half(), k.bfloat16()).dtype == torch.float32


def test_masked_keys_receive_nothing():
    q, k = queries_and_keys(4, 2)
    seen = torch.tensor([True, False, True, True])
    pushed = AttentionTransition(q, k, mask=seen).push(torch.full((4,), 0.25))
    assert pushed[1] == 0


def test_additive_and_boolean_masks_are_the_same_chain():
    q, k = queries_and_keys(4, 2)
    seen = torch.tensor([True, False, True, True])
    added = torch.zeros(4, dtype=torch.float64).masked_fill(~seen, -torch.inf)
    torch.testing.assert_close(
        AttentionTransition(q, k, mask=seen).to_dense(),
        AttentionTransition(q, k, mask=added).to_dense(),
    )


@pytest.mark.parametrize("backend", ["dense", "tiled"])
def test_a_row_masked_everywhere_is_refused(backend):
    q, k = queries_and_keys(2, 3, 2)
    seen = torch.ones(2, 3, 3, dtype=torch.bool)
    seen[1, 2] = False
    chain = AttentionTransition(q, k, mask=seen, backend=backend)
    with pytest.raises(NotStochasticError, match=r"row 2 of chain \(1,\).*masked"):
        chain.push(torch.ones(3))


def test_a_row_masked_everywhere_by_numbers_is_refused():
    q, k = queries_and_keys(3, 2)
    bias = torch.zeros(3, 3)
    bias[0] = -torch.inf
    with pytest.raises(NotStochasticError, match="row 0 is fully masked"):
        AttentionTransition(q, k, mask=bias).to_dense()


def test_cross_attention_is_refused():
    q, k = queries_and_keys(4, 2)
    with pytest.raises(ShapeError, match="Cross-attention"):
        AttentionTransition(q, k[:3])


@pytest.mark.parametrize(
    "shapes",
    [((4, 2), (4, 3)), ((2, 4, 2), (4, 2)), ((4,), (4,)), ((0, 2), (0, 2))],
)
def test_queries_and_keys_that_do_not_fit_are_refused(shapes):
    with pytest.raises(ShapeError, match="one shape"):
        AttentionTransition(*(torch.zeros(shape) for shape in shapes))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["q", "k"])
def test_numbers_that_are_not_finite_are_refused(bad, name):
    given = {"q": torch.zeros(3, 2), "k": torch.zeros(3, 2)}
    given[name][1, 0] = bad
    with pytest.raises(NotStochasticError, match=f"{name} has 1 entries"):
        AttentionTransition(**given)


def test_scores_that_overflow_are_refused():
    q = torch.full((2, 1), 1e30)
    with pytest.raises(NotStochasticError, match="overflow"):
        AttentionTransition(q, q).push(torch.ones(2))


def test_masks_that_are_not_numbers_are_refused():
    q = torch.zeros(2, 1)
    bias = torch.tensor([0.0, torch.nan])
    with pytest.raises(NotStochasticError):
        AttentionTransition(q, q, mask=bias).push(torch.ones(2))


@pytest.mark.parametrize("shape", [(3,), (3, 4), (5, 4, 4), (2, 2, 4, 4), ()])
def test_masks_that_do_not_broadcast_are_refused(shape):
    q, k = queries_and_keys(2, 4, 2)
    with pytest.raises(ShapeError, match="broadcast"):
        AttentionTransition(q, k, mask=torch.ones(shape, dtype=torch.bool))


def test_integer_masks_are_refused():
    q, k = queries_and_keys(4, 2)
    with pytest.raises(ShapeError, match="boolean or floating"):
        AttentionTransition(q, k, mask=torch.ones(4, 4, dtype=torch.long))


def test_masks_with_gradients_are_refused():
    q, k = queries_and_keys(4, 2)
    with pytest.raises(ArgumentError, match="detach"):
        AttentionTransition(q, k, mask=torch.zeros(4, 4, requires_grad=True))


def test_integers_and_lists_are_refused():
    with pytest.raises(ShapeError, match="floating"):
        AttentionTransition(torch.zeros(2, 1), torch.zeros(2, 1, dtype=torch.long))
    with pytest.raises(ArgumentError, match="tensor"):
        AttentionTransition([[0.0]], [[0.0]])
    with pytest.raises(ArgumentError, match="mask must be a torch tensor"):
        AttentionTransition(torch.zeros(2, 1), torch.zeros(2, 1), mask=[True, False])


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), "1", 1j])
def test_a_scale_is_a_finite_number(scale):
    with pytest.raises(ArgumentError, match="scale"):
        AttentionTransition(torch.zeros(2, 1), torch.zeros(2, 1), scale=scale)


def test_unknown_backends_are_refused():
    with pytest.raises(ArgumentError, match="auto, dense or tiled"):
        AttentionTransition(torch.zeros(2, 1), torch.zeros(2, 1), backend="flash")


def test_a_dense_form_above_the_budget_warns(monkeypatch):
    monkeypatch.setenv("ATTNCHAIN_MEMORY_BUDGET", "100")
    q, k = queries_and_keys(800, 2)
    with pytest.warns(MaterializationWarning, match="GiB"):
        AttentionTransition(q, k).to_dense()


def test_causal_states_keep_their_order():
    q, k = queries_and_keys(4, 2)
    with pytest.raises(ArgumentError, match="order"):
        AttentionTransition(q, k, causal=True).restrict(torch.tensor([2, 0]))


@pytest.mark.parametrize(
    "keep", [torch.tensor([0, 0]), torch.tensor([0, 9]), torch.zeros(4).bool()]
)
def test_restricting_to_no_or_repeated_or_unknown_states_is_refused(keep):
    q, k = queries_and_keys(4, 2)
    with pytest.raises(ArgumentError, match="keep"):
        AttentionTransition(q, k).restrict(keep)


@pytest.mark.parametrize("backend", ["dense", "tiled"])
@pytest.mark.parametrize("causal", [False, True])
def test_the_diagonal_keeps_the_gradient(backend, causal):
    q, k = queries_and_keys(7, 4)
    q.requires_grad_()
    weights = torch.arange(7.0, dtype=q.dtype)
    chain = AttentionTransition(q, k, causal=causal, backend=backend)
    [found] = torch.autograd.grad(chain.diagonal() @ weights, q)
    scores = q @ k.mT * 0.5
    if causal:
        future = torch.ones(7, 7, dtype=torch.bool).triu(1)
        scores = scores.masked_fill(future, -torch.inf)
    [expected] = torch.autograd.grad(scores.softmax(-1).diagonal() @ weights, q)
    torch.testing.assert_close(found, expected)
    with torch.no_grad():
        plain = chain.diagonal()
    torch.testing.assert_close(plain, scores.softmax(-1).diagonal().detach())


def test_a_truth_value_is_no_number():
    chain = AttentionTransition(*queries_and_keys(3, 2))
    with pytest.raises(ArgumentError, match=r"damping must lie in .*True"):
        Damped(chain, True)
    with pytest.raises(ArgumentError, match="scale must be a finite number"):
        AttentionTransition(chain.q, chain.k, scale=True)
