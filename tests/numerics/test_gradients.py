"""Gradients of stationary distributions, against finite differences and autograd."""

import pytest
import torch
from tests.operators.builders import queries_and_keys, random_rows
from torch.autograd import gradcheck

from attnchain.errors import DerivativeError, NumericalWarning
from attnchain.markov import gradients, stationary
from attnchain.operators import (
    AttentionTransition,
    ColumnNormalized,
    Damped,
    DenseTransition,
    Mixture,
    Restricted,
)

CHAINS = {
    "damped": lambda p: Damped(p, 0.9),
    "outgoing": lambda p: ColumnNormalized(Damped(p, 0.9)),
    "undamped": lambda p: p,
    "column_normalised": ColumnNormalized,
    "restricted": lambda p: Damped(Restricted(p, torch.tensor([0, 2, 3])), 0.8),
}


def tracked(*shape):
    return [x.requires_grad_() for x in queries_and_keys(*shape, size=1.0)]


@pytest.mark.parametrize("make", CHAINS.values(), ids=CHAINS.keys())
@pytest.mark.parametrize("causal", [False, True])
def test_token_rank_in_queries_and_keys(make, causal):
    if causal and make in (CHAINS["undamped"], CHAINS["column_normalised"]):
        pytest.skip("an undamped causal chain is reducible")
    q, k = tracked(2, 5, 3)

    def rank(q, k):
        chain = make(AttentionTransition(q, k, causal=causal))
        return stationary(chain, tolerance=1e-10).distribution

    assert gradcheck(rank, (q, k))


def test_token_rank_in_the_personalization():
    q, k = queries_and_keys(6, 3, size=1.0)
    logits = torch.linspace(-1, 1, 6).double().requires_grad_()

    def rank(logits):
        chain = Damped(AttentionTransition(q, k), 0.7, logits.softmax(-1))
        return stationary(chain, tolerance=1e-10).distribution

    assert gradcheck(rank, logits)


def test_token_rank_of_a_stored_matrix_and_of_a_mixture():
    logits = torch.randn(2, 4, 4, dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([0.25, 0.75], dtype=torch.float64)

    def rank(logits):
        heads = DenseTransition(logits.softmax(-1))
        return stationary(Damped(Mixture([heads], [weights]), 0.9)).distribution

    assert gradcheck(rank, logits)


@pytest.mark.parametrize("make", CHAINS.values(), ids=CHAINS.keys())
def test_token_rank_in_the_entries_of_a_stored_matrix(make):
    matrix = torch.from_numpy(random_rows(2, 5, 5)).requires_grad_()

    def rank(matrix):
        chain = make(DenseTransition(matrix, atol=1e-2))
        return stationary(chain, tolerance=1e-9).distribution

    assert gradcheck(rank, matrix, eps=1e-5, atol=1e-6)


def test_the_gradient_of_a_stored_matrix_is_that_of_the_divided_one():
    matrix = torch.from_numpy(random_rows(5, 5)).requires_grad_()
    target = torch.linspace(-1, 1, 5).double()
    loss = stationary(Damped(DenseTransition(matrix), 0.9)).distribution @ target
    rows = matrix / matrix.sum(-1, keepdim=True)
    system = torch.eye(5).double() - 0.9 * rows
    plain = torch.linalg.solve(system.T, torch.full((5,), 0.1 / 5).double()) @ target
    found, expected = (torch.autograd.grad(x, matrix) for x in (loss, plain))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("make", CHAINS.values(), ids=CHAINS.keys())
@pytest.mark.parametrize("linear", [False, True])
def test_second_derivatives_are_refused(make, linear):
    q, k = tracked(2, 5, 3)
    pi = stationary(make(AttentionTransition(q, k))).distribution
    loss = pi[..., 0].sum() if linear else pi.square().sum()
    (first,) = torch.autograd.grad(loss, q, create_graph=True)
    with pytest.raises(DerivativeError, match="second derivatives"):
        torch.autograd.grad(first.square().sum(), q)


@pytest.mark.parametrize("outgoing", [False, True])
def test_single_precision_heads_of_many_tokens(outgoing):
    q, k = (x.float().requires_grad_() for x in queries_and_keys(300, 8, size=2.0))
    target = torch.rand(300, dtype=torch.float64)
    damped = Damped(AttentionTransition(q, k), 0.95)
    chain = ColumnNormalized(damped) if outgoing else damped
    loss = stationary(chain).distribution @ target
    found = torch.autograd.grad(loss, (q, k))

    exact = [x.detach().double().requires_grad_() for x in (q, k)]
    matrix = 0.95 * (exact[0] @ exact[1].T * 8**-0.5).softmax(-1) + 0.05 / 300
    matrix = (matrix / matrix.sum(0)).T if outgoing else matrix
    system = torch.eye(300, dtype=torch.float64) - matrix + 1 / 300
    uniform = torch.full((300,), 1 / 300, dtype=torch.float64)
    expected_loss = torch.linalg.solve(system.T, uniform) @ target
    expected = torch.autograd.grad(expected_loss, exact)
    for have, want in zip(found, expected, strict=True):
        assert (have - want).norm() <= 1e-4 * want.norm()


def test_no_graph_is_kept_where_none_is_asked_for():
    q, k = tracked(5, 3)
    chain = Damped(AttentionTransition(q, k))
    with torch.no_grad():
        assert not stationary(chain).distribution.requires_grad
    assert stationary(chain).distribution.requires_grad
    assert not stationary(chain).error_bound.requires_grad


def test_an_unsolved_adjoint_is_told(monkeypatch):
    monkeypatch.setattr(gradients, "_MAX_ITERATIONS", 1)
    q, k = tracked(40, 3)
    loss = stationary(Damped(AttentionTransition(q, k))).distribution[0]
    with pytest.warns(NumericalWarning, match="gradient"):
        loss.backward()
