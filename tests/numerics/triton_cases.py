"""The Triton kernels, run by test_triton.py in a process with TRITON_INTERPRET=1."""

import pytest
import torch
from tests.operators.builders import queries_and_keys

from attnchain.errors import NotStochasticError
from attnchain.markov import stationary
from attnchain.operators import AttentionTransition, Damped
from attnchain.operators.kernels.triton_kernels import FusedHead

MASKS = ("none", "boolean", "key_bias", "bias")


def make_mask(kind, n):
    generator = torch.Generator().manual_seed(1)
    if kind == "boolean":
        return (torch.rand(n, n, generator=generator) > 0.3) | torch.eye(n).bool()
    if kind == "key_bias":
        return torch.randn(1, n, generator=generator)
    return torch.randn(n, n, generator=generator) if kind == "bias" else None


def softmax(q, k, mask, causal):
    scores = q.double() @ k.double().T * 0.3
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, -torch.inf)
    elif mask is not None:
        scores = scores + mask
    if causal:
        later = torch.ones(scores.shape).triu(1).bool()
        scores = scores.masked_fill(later, -torch.inf)
    return scores.softmax(-1)


def check(q, k, mask, causal):
    n = len(q)
    double = q.dtype == torch.float64
    near = {"atol": 1e-14, "rtol": 1e-12} if double else {"atol": 1e-5, "rtol": 1e-4}
    matrix = softmax(q, k, mask, causal)
    head = FusedHead.prepare(q, k, mask=mask, causal=causal, scale=0.3)
    for count in (1, 3, 70):
        generator = torch.Generator().manual_seed(2)
        v = torch.rand(count, n, generator=generator, dtype=q.dtype)
        pushed, pulled = v.double() @ matrix, v.double() @ matrix.T
        for side, exact in (("push", pushed), ("pull", pulled)):
            found = head.multiply(v, side).double()
            torch.testing.assert_close(found, exact, **near)
    return head


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_masks(causal, kind, dtype):
    q, k = (x.to(dtype) for x in queries_and_keys(70, 16))
    mask = make_mask(kind, 70)
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(dtype)
    check(q, k, mask, causal)


@pytest.mark.parametrize(("n", "d"), [(1, 16), (37, 24), (130, 64), (40, 256)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_shapes(n, d, dtype):
    q, k = (x.to(dtype) for x in queries_and_keys(n, d))
    check(q, k, None, causal=False)


def test_half_precision_is_read_where_it_is_exact():
    q, k = (x.half().float() for x in queries_and_keys(40, 32))
    assert check(q, k, None, causal=True).query.dtype == torch.float16


def test_batches_gradients_and_the_diagonal():
    q, k = (x.float().requires_grad_() for x in queries_and_keys(2, 70, 16))
    fused = AttentionTransition(q, k, backend="triton")
    tiled = AttentionTransition(q, k, backend="tiled")
    v = torch.linspace(0, 1, 70)
    found = torch.autograd.grad(fused.push(v).square().sum(), (q, k))
    expected = torch.autograd.grad(tiled.push(v).square().sum(), (q, k))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(fused.diagonal(), tiled.diagonal())
    assert isinstance(fused._heads[0], FusedHead)


def test_token_rank_is_certified_in_float64_all_the_same():
    q, k = (x.float() for x in queries_and_keys(90, 16))
    found = stationary(Damped(AttentionTransition(q, k, backend="triton"), 0.9))
    exact = stationary(Damped(AttentionTransition(q, k), 0.9), tolerance=1e-10)
    error = (found.distribution - exact.distribution).abs().sum()
    assert error <= found.error_bound + exact.error_bound


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
def test_masked_rows_and_overflow_are_named():
    q, k = (x.float() for x in queries_and_keys(20, 16))
    mask = torch.ones(20, 20).bool()
    mask[3] = False
    v = torch.ones(20)
    with pytest.raises(NotStochasticError, match="row 3 is fully masked"):
        AttentionTransition(q, k, mask=mask, backend="triton").push(v)
    with pytest.raises(NotStochasticError, match="overflow"):
        AttentionTransition(q * 1e20, k * 1e20, backend="triton").push(v)
