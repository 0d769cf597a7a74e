"""Gradients of products, against finite differences in float64."""

import pytest
import torch
from tests.operators.builders import queries_and_keys, random_rows
from torch.autograd import gradcheck, gradgradcheck

from attnchain.operators import (
    AttentionTransition,
    ColumnNormalized,
    Damped,
    DenseTransition,
    Grouped,
    Lazy,
    Mixture,
    Power,
    Product,
    Restricted,
    Reversed,
)

MASK = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 1], [1, 1, 1, 1], [1, 0, 0, 1]]).bool()
SETTINGS = {
    "plain": {},
    "scaled": {"scale": 0.7},
    "causal": {"causal": True},
    "boolean_mask": {"mask": MASK},
    "additive_mask": {"mask": torch.linspace(-1, 1, 16).double().view(4, 4)},
}
COMBINATORS = {
    "Damped": lambda chain: Damped(chain, 0.9),
    "Lazy": lambda chain: Lazy(chain, 0.25),
    "Power": lambda chain: Power(chain, 3),
    "Product": lambda chain: Product([chain, Damped(chain, 0.5)]),
    "Restricted": lambda chain: Restricted(chain, torch.tensor([0, 2, 3])),
    "ColumnNormalized": ColumnNormalized,
    "ColumnNormalized of Damped": lambda chain: ColumnNormalized(Damped(chain, 0.9)),
    "Mixture": lambda chain: Mixture(
        [chain], [torch.tensor([0.25, 0.75], dtype=torch.float64)]
    ),
}


def tracked(*shape):
    return [x.requires_grad_() for x in queries_and_keys(*shape, size=1.0)]


def weights_like(chain, *extra):
    generator = torch.Generator().manual_seed(3)
    shape = (*chain.batch_shape, *extra, chain.n_states)
    return torch.rand(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("side", ["push", "pull"])
@pytest.mark.parametrize("backend", ["auto", "dense", "tiled"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_products_with_attention(settings, backend, side):
    q, k = tracked(2, 4, 3)

    def product(q, k, v):
        chain = AttentionTransition(q, k, backend=backend, **settings)
        return getattr(chain, side)(v)

    v = weights_like(AttentionTransition(q, k), 2).requires_grad_()
    assert gradcheck(product, (q, k, v))


@pytest.mark.parametrize("side", ["push", "pull"])
@pytest.mark.parametrize("backend", ["auto", "tiled"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_second_derivatives_of_products_with_attention(settings, backend, side):
    q, k = tracked(4, 2)
    v = weights_like(AttentionTransition(q, k), 2).requires_grad_()

    def product(q, k, v):
        chain = AttentionTransition(q, k, backend=backend, **settings)
        return getattr(chain, side)(v)

    assert gradgradcheck(product, (q, k, v))


def test_a_loss_linear_in_the_product_has_its_second_derivative():
    q, k = tracked(4, 2)
    v, target = torch.rand(2, 4, dtype=torch.float64)
    chain = AttentionTransition(q, k)
    (first,) = torch.autograd.grad(chain.push(v) @ target, q, create_graph=True)
    plain = v @ torch.softmax(q @ k.T * 2**-0.5, -1) @ target
    (expected,) = torch.autograd.grad(plain, q, create_graph=True)
    weights = torch.arange(8.0).view(4, 2).double()
    found = torch.autograd.grad((first * weights).sum(), (q, k))
    wanted = torch.autograd.grad((expected * weights).sum(), (q, k))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("side", ["push", "pull"])
@pytest.mark.parametrize("labels", [(0, 1, 1, 0), (0, 1, 1, 1)])
def test_products_inside_groups(labels, side):
    q, k = tracked(2, 4, 3)
    v = weights_like(AttentionTransition(q, k))

    def product(q, k):
        chain = Grouped(AttentionTransition(q, k), torch.tensor(labels))
        return getattr(chain, side)(v)

    assert gradcheck(product, (q, k))


@pytest.mark.parametrize("side", ["push", "pull"])
@pytest.mark.parametrize("combine", COMBINATORS.values(), ids=COMBINATORS.keys())
def test_products_with_what_is_made_of_attention(combine, side):
    q, k = tracked(2, 4, 3)
    v = weights_like(combine(AttentionTransition(q, k)))

    def product(q, k):
        return getattr(combine(AttentionTransition(q, k)), side)(v)

    assert gradcheck(product, (q, k))


def test_dense_form_of_attention():
    q, k = tracked(4, 2)
    assert gradcheck(lambda q, k: AttentionTransition(q, k).to_dense(), (q, k))


def test_restricted_attention():
    q, k = tracked(5, 2)
    keep = torch.tensor([0, 1, 4])
    v = torch.rand(3, dtype=torch.float64)
    assert gradcheck(
        lambda q, k: AttentionTransition(q, k).restrict(keep).push(v), (q, k)
    )


@pytest.mark.parametrize("side", ["push", "pull"])
def test_products_with_a_stored_matrix(side):
    logits = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    v = torch.rand(3, dtype=torch.float64, requires_grad=True)

    def product(logits, v):
        return getattr(DenseTransition(logits.softmax(-1)), side)(v)

    assert gradcheck(product, (logits, v))


@pytest.mark.parametrize("combine", COMBINATORS.values(), ids=COMBINATORS.keys())
@pytest.mark.parametrize("ask", ["push", "pull", "to_dense"])
def test_the_entries_of_a_stored_matrix_are_divided_by_their_row_sums(combine, ask):
    matrix = torch.from_numpy(random_rows(2, 4, 4)).requires_grad_()

    def product(matrix):
        chain = combine(DenseTransition(matrix, atol=1e-2))
        given = [] if ask == "to_dense" else [weights_like(chain)]
        return getattr(chain, ask)(*given)

    assert gradcheck(product, matrix, eps=1e-5)
    assert gradgradcheck(product, matrix, eps=1e-5, atol=1e-4)


def test_weights_personalization_and_pi_have_gradients():
    heads = DenseTransition(torch.from_numpy(random_rows(2, 3, 3)))
    uniform = DenseTransition(torch.full((3, 3), 1 / 3).double())
    v, third = torch.rand(3).double(), torch.full((3,), 1 / 3).double()

    def product(w, jump, pi):
        mixed = Damped(Mixture([heads], [w.softmax(0)]), 0.7, jump.softmax(0))
        near = third + 1e-4 * (pi - pi.mean())
        return mixed.push(v) + Reversed(uniform, near).pull(v)

    given = [torch.linspace(0, 1, n).double().requires_grad_() for n in (2, 3, 3)]
    assert gradcheck(product, given, atol=1e-8)


def test_gradients_through_several_tiles_equal_those_of_the_softmax():
    q, k = tracked(300, 4)
    v, target = torch.rand(2, 300, dtype=torch.float64)
    tiled = AttentionTransition(q, k, backend="tiled").push(v) @ target
    plain = v @ torch.softmax(q @ k.T / 2, -1) @ target
    found = torch.autograd.grad(tiled, (q, k))
    expected = torch.autograd.grad(plain, (q, k))
    torch.testing.assert_close(found, expected)


def test_values_are_the_same_with_and_without_gradients():
    q, k = tracked(2, 4, 3)
    with_gradients = AttentionTransition(q, k)
    without = AttentionTransition(q.detach(), k.detach())
    v = torch.from_numpy(random_rows(1, 4))[0]
    torch.testing.assert_close(with_gradients.push(v).detach(), without.push(v))
