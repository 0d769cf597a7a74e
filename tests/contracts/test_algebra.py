"""Identities between operators; each compares two ways to the same chain."""

import numpy as np
import pytest
import torch
from tests.operators.builders import queries_and_keys, random_rows

from attnchain import reference
from attnchain.operators import (
    AttentionTransition,
    ColumnNormalized,
    Damped,
    DenseTransition,
    Lazy,
    Mixture,
    Permuted,
    Power,
    Product,
    Restricted,
    Reversed,
)
from attnchain.testing import chains


@pytest.fixture
def chain():
    return DenseTransition(torch.from_numpy(random_rows(2, 5, 5)))


def assert_same(left, right, atol=1e-12):
    torch.testing.assert_close(left.to_dense(), right.to_dense(), atol=atol, rtol=0)


def test_power_is_the_repeated_product(chain):
    assert_same(Power(chain, 3), Product([chain, chain, chain]))
    assert_same(Power(chain, 1), chain)


def test_products_associate_and_are_kept_flat(chain):
    lazy = Lazy(chain, 0.5)
    left = Product([Product([chain, lazy]), chain])
    right = Product([chain, Product([lazy, chain])])
    assert_same(left, right)
    assert len(left.factors) == len(right.factors) == 3


def test_products_do_not_commute(chain):
    lazy = Permuted(chain, torch.tensor([1, 0, 2, 3, 4]))
    ahead = Product([chain, lazy]).to_dense()
    assert not torch.allclose(ahead, Product([lazy, chain]).to_dense(), atol=1e-3)


def test_damping_twice_multiplies(chain):
    assert_same(Damped(Damped(chain, 0.8), 0.5), Damped(chain, 0.4))


def test_damping_one_is_the_chain_itself(chain):
    assert_same(Damped(chain, 1.0), chain)


def test_damping_is_a_mixture_with_a_chain_that_has_no_memory():
    twin = random_rows(4, 4)
    v = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    jump = DenseTransition(v.repeat(4, 1))
    weights = [torch.tensor(w, dtype=torch.float64) for w in (0.7, 0.3)]
    base = DenseTransition(torch.from_numpy(twin))
    assert_same(Damped(base, 0.7, v), Mixture([base, jump], weights))


def test_lazy_powers_expand_binomially(chain):
    identity = DenseTransition(torch.eye(5, dtype=torch.float64).expand(2, 5, 5))
    expected = (
        0.25 * identity.to_dense()
        + 0.5 * chain.to_dense()
        + 0.25 * Power(chain, 2).to_dense()
    )
    found = Power(Lazy(chain, 0.5), 2).to_dense()
    torch.testing.assert_close(found, expected)


def test_column_normalising_twice_does_not_give_the_chain_back(chain):
    twice = ColumnNormalized(ColumnNormalized(chain)).to_dense()
    assert not torch.allclose(twice, chain.to_dense(), atol=1e-3)


def test_column_normalising_a_doubly_stochastic_chain_transposes_it():
    known = chains.lazy_cycle(5)
    found = ColumnNormalized(DenseTransition(known.matrix)).to_dense()
    torch.testing.assert_close(found, known.matrix.T)


def test_damping_and_column_normalising_do_not_commute(chain):
    first = ColumnNormalized(Damped(chain, 0.9)).to_dense()
    last = Damped(ColumnNormalized(chain), 0.9).to_dense()
    assert not torch.allclose(first, last, atol=1e-3)


def test_a_reversible_chain_is_its_own_reversal():
    known = chains.birth_death(6)
    chain = DenseTransition(known.matrix)
    assert_same(Reversed(chain, known.stationary), chain)


def test_reversal_of_a_one_way_cycle_turns_round():
    known = chains.lazy_cycle(5)
    backwards = Reversed(DenseTransition(known.matrix), known.stationary)
    torch.testing.assert_close(backwards.to_dense(), known.matrix.T)


def test_reversing_twice_gives_the_chain_back():
    twin = random_rows(5, 5)
    pi = torch.from_numpy(reference.stationary(twin))
    chain = DenseTransition(torch.from_numpy(twin))
    assert_same(Reversed(Reversed(chain, pi), pi), chain)


def test_permuting_back_gives_the_chain_back(chain):
    order = torch.tensor([3, 1, 4, 0, 2])
    assert_same(Permuted(Permuted(chain, order), order.argsort()), chain)


def test_keeping_every_state_changes_nothing(chain):
    assert_same(Restricted(chain, torch.arange(5)), chain)


def test_restricting_in_two_steps_is_restricting_once(chain):
    twice = Restricted(Restricted(chain, torch.tensor([4, 2, 0])), torch.tensor([2, 0]))
    assert_same(twice, Restricted(chain, torch.tensor([0, 4])))


@pytest.mark.parametrize("backend", ["dense", "tiled"])
@pytest.mark.parametrize("causal", [False, True])
def test_restricting_attention_is_softmax_over_the_kept_keys(backend, causal):
    q, k = queries_and_keys(2, 6, 3)
    whole = AttentionTransition(q, k, causal=causal, backend=backend)
    keep = torch.tensor([0, 2, 5])
    part = AttentionTransition(q[:, keep], k[:, keep], causal=causal)
    assert_same(whole.restrict(keep), part)
    assert_same(Restricted(whole, keep), part)


def test_restriction_and_mixing_do_not_commute():
    heads = torch.from_numpy(random_rows(2, 4, 4))
    half = [torch.full((2,), 0.5, dtype=torch.float64)]
    keep = torch.tensor([0, 1])
    chain = DenseTransition(heads)
    late = Restricted(Mixture([chain], half), keep).to_dense()
    early = Mixture([Restricted(chain, keep)], half).to_dense()
    assert not torch.allclose(late, early, atol=1e-3)


def test_a_mixture_of_components_is_the_mixture_of_their_chains():
    heads = torch.from_numpy(random_rows(3, 4, 4))
    weights = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    batched = Mixture([DenseTransition(heads)], [weights])
    single = Mixture([DenseTransition(h) for h in heads], list(weights))
    assert_same(batched, single)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_stored_and_tiled_backends_agree(masked, causal):
    q, k = queries_and_keys(2, 300, 8, dtype=torch.float32)
    mask = torch.arange(300) < 280 if masked else None
    stored, tiled = (
        AttentionTransition(q, k, mask=mask, causal=causal, backend=backend)
        for backend in ("dense", "tiled")
    )
    v = torch.rand(2, 3, 300)
    torch.testing.assert_close(stored.push(v), tiled.push(v), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(stored.pull(v), tiled.pull(v), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", ["dense", "tiled"])
def test_half_precision_numbers_are_upcast_not_rounded_again(backend):
    q, k = queries_and_keys(16, 8, dtype=torch.float16)
    from_half = AttentionTransition(q, k, backend=backend)
    from_single = AttentionTransition(q.float(), k.float(), backend=backend)
    assert from_half.dtype == torch.float32
    v = torch.rand(16)
    torch.testing.assert_close(from_half.push(v), from_single.push(v), atol=0, rtol=0)


def test_row_and_column_select_and_column_sum_are_first_bounces():
    twin = random_rows(6, 6)
    chain = DenseTransition(torch.from_numpy(twin))
    one_hot = torch.eye(6, dtype=torch.float64)[2]
    uniform = torch.full((6,), 1 / 6, dtype=torch.float64)
    np.testing.assert_allclose(chain.push(one_hot), twin[2])
    np.testing.assert_allclose(6 * chain.push(uniform), twin.sum(0))
    column = ColumnNormalized(chain).push(one_hot)
    np.testing.assert_allclose(column, twin[:, 2] / twin[:, 2].sum())
    np.testing.assert_allclose(chain.pull(one_hot), twin[:, 2])
