"""Modes of torch around our calls change no answer: autocast, and lazy quantities."""

import pytest
import torch
from tests.operators.builders import queries_and_keys

from attnchain import markov
from attnchain.operators import (
    AttentionTransition,
    ColumnNormalized,
    Damped,
    DenseTransition,
    Mixture,
    Restricted,
    Reversed,
    stored,
)

LOW = [torch.bfloat16, torch.float16]


def same(found, expected):
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


@pytest.mark.parametrize("low", LOW)
def test_products_under_autocast_are_the_same(pair, low):
    transition, _ = pair
    v = torch.linspace(0, 1, transition.n_states).to(transition.dtype)
    ask = [
        lambda chain: chain.push(v),
        lambda chain: chain.pull(v),
        lambda chain: chain.to_dense(),
    ]
    expected = [f(transition) for f in ask]
    with torch.autocast("cpu", low):
        found = [f(transition) for f in ask]
        fresh = transition.to(torch.float64).to(transition.dtype)
        again = [f(fresh) for f in ask]
    for have, renewed, want in zip(found, again, expected, strict=True):
        same(have, want)
        torch.testing.assert_close(renewed, want)


QUESTIONS = {
    "stationary": lambda p: markov.stationary(Damped(p)).distribution,
    "outgoing": lambda p: markov.stationary(ColumnNormalized(Damped(p))).distribution,
    "undamped": lambda p: markov.stationary(p).distribution,
    "spectrum": lambda p: markov.spectrum(p, 3).eigenvalues,
    "second_eigenvalue": lambda p: markov.second_eigenvalue(p).modulus,
    "spectral_gap": markov.spectral_gap,
    "mixing_time": lambda p: markov.mixing_time(p, markov.stationary(p).distribution),
    "mix": lambda p: markov.mix([p]).push(torch.ones(p.n_states)),
    "propagate": lambda p: markov.propagate(p, 0, 3, direction="outgoing"),
    "leading_subspaces": lambda p: markov.leading_subspaces(p[0], 2).eigenvalues,
    "metastable_sets": lambda p: (
        markov.metastable_sets(AttentionTransition(p.k[0], p.k[0]), 2).retention
    ),
    "is_irreducible": lambda p: torch.tensor(markov.is_irreducible(p)),
    "detailed_balance_error": lambda p: markov.detailed_balance_error(
        p, markov.stationary(p).distribution
    ),
    "diagonal": lambda p: p.diagonal(),
}


@pytest.mark.parametrize("n", [20, 300])
@pytest.mark.parametrize("ask", QUESTIONS.values(), ids=QUESTIONS.keys())
def test_answers_under_autocast_are_the_same(ask, n):
    q, k = queries_and_keys(2, n, 4, size=1.0, dtype=torch.float32)
    expected = ask(AttentionTransition(q, k))
    with torch.autocast("cpu", torch.bfloat16):
        found = ask(AttentionTransition(q, k))
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", ["tiled", "dense"])
def test_gradients_taken_under_autocast_are_the_same(backend):
    given = [x.float().requires_grad_() for x in queries_and_keys(2, 12, 4)]

    def gradients():
        chain = AttentionTransition(*given, backend=backend)
        pi = markov.stationary(Damped(chain, 0.9)).distribution
        loss = pi.square().sum() + chain.push(torch.arange(12.0)).square().sum()
        return torch.autograd.grad(loss, given)

    expected = gradients()
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients()
    torch.testing.assert_close(found, expected)


class Counting(DenseTransition):
    """Counts its products."""

    products = 0

    def _push(self, vectors):
        Counting.products += 1
        return super()._push(vectors)

    def _pull(self, observables):
        Counting.products += 1
        return super()._pull(observables)


@pytest.fixture
def heads():
    q, k = queries_and_keys(12, 5, 3)
    matrices = AttentionTransition(q, k).to_dense()
    Counting.products = 0
    return Counting.trusted(matrices)


LAZY = {
    "ColumnNormalized": ColumnNormalized,
    "Restricted": lambda p: Restricted(p, torch.tensor([0, 2, 3])),
    "ColumnNormalized of Restricted": lambda p: ColumnNormalized(
        Restricted(Damped(p), torch.tensor([0, 2, 3]))
    ),
}


@pytest.mark.parametrize("make", LAZY.values(), ids=LAZY.keys())
def test_making_and_indexing_views_multiplies_nothing(heads, make):
    chain = make(heads)
    parts = [*chain.chains(), chain.to(torch.float64), chain[2:5]]
    assert Counting.products == 0
    v = torch.ones(chain.n_states).double()
    for _ in range(3):
        chain.push(v)
        chain.pull(v)
    once = Counting.products
    kept = list(chain.chains())
    assert Counting.products == once
    for old, new, whole in zip(parts, kept, chain.push(v), strict=False):
        torch.testing.assert_close(old.push(v), whole)
        before = Counting.products
        torch.testing.assert_close(new.push(v), whole)
        assert Counting.products == before + 1


def test_a_reversal_multiplies_once_to_be_checked(heads):
    pi = markov.stationary(heads).distribution
    Counting.products = 0
    backwards = Reversed(heads, pi)
    parts = list(backwards.chains())
    assert Counting.products == 1
    v = torch.ones(5).double()
    for part, whole in zip(parts, backwards.pull(v), strict=True):
        torch.testing.assert_close(part.pull(v), whole)


def test_a_kept_quantity_does_not_hide_a_gradient():
    q, k = (x.requires_grad_() for x in queries_and_keys(5, 3))
    chain = ColumnNormalized(Restricted(AttentionTransition(q, k), [0, 1, 3]))
    v = torch.arange(3.0).double()
    with torch.no_grad():
        chain.push(v)

    def loss(chain):
        return chain.push(v).square().sum()

    found = torch.autograd.grad(loss(chain), (q, k))
    fresh = ColumnNormalized(Restricted(AttentionTransition(q, k), [0, 1, 3]))
    torch.testing.assert_close(found, torch.autograd.grad(loss(fresh), (q, k)))
    torch.testing.assert_close(found, torch.autograd.grad(loss(chain), (q, k)))


def test_solvers_store_what_was_not_asked_for_in_tiles():
    q, k = queries_and_keys(2, 1000, 2, dtype=torch.float32)
    free, tiled = (AttentionTransition(q, k, backend=b) for b in ("auto", "tiled"))
    weights = [torch.tensor([0.5, 0.5])]
    for wrap in (lambda p: p[0], lambda p: Damped(Mixture([p], weights))):
        assert isinstance(stored(wrap(free)), DenseTransition)
        chain = wrap(tiled)
        assert stored(chain) is chain
    assert isinstance(stored(tiled[0].restrict(slice(100))), DenseTransition)
