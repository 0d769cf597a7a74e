"""Texts of different lengths as one batch: each chain is that of its text alone."""

import copy
import pickle

import numpy as np
import pytest
import torch
from tests.operators.builders import queries_and_keys, random_rows

from attnchain.errors import ArgumentError, ShapeError
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
    Stacked,
    as_transition,
    forward_backward,
    stored,
)

LIVE = torch.tensor([[0, 1, 1, 0, 1], [1, 1, 1, 1, 1], [0, 0, 1, 1, 0]]).bool()
"""Texts of 3, 5 and 2 tokens."""


def matrices(seed=0):
    """One for each text and each of its two heads."""
    return [
        torch.from_numpy(random_rows(2, int(row.sum()), int(row.sum()), seed=seed))
        for row in LIVE
    ]


def stack(seed=0):
    members = [as_transition(m) for text in matrices(seed) for m in text]
    return Stacked(members, LIVE[:, None].expand(3, 2, 5), ("input", "head"))


def scattered(texts):
    """Matrices among zeros, by plain indexing."""
    whole = torch.zeros(3, 2, 5, 5, dtype=torch.float64)
    for i, (row, text) in enumerate(zip(LIVE, texts, strict=True)):
        places = row.nonzero()[:, 0]
        for h in range(2):
            for a, from_ in enumerate(places):
                for b, to in enumerate(places):
                    whole[i, h, from_, to] = text[h, a, b]
    return whole


def same(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_products_are_those_of_the_matrices_among_zeros():
    chains, whole = stack(), scattered(matrices())
    same(chains.to_dense(), whole)
    vectors = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 2, 4, 5)))
    same(chains.push(vectors), vectors @ whole)
    same(chains.pull(vectors), vectors @ whole.mT)
    same(chains.push(vectors[0, 0, 0]), vectors[0, 0, 0] @ whole)
    assert not chains.pull(torch.ones(5))[~chains.live].any()


DERIVED = {
    "Damped": Damped,
    "ColumnNormalized": ColumnNormalized,
    "outgoing": lambda p: ColumnNormalized(Damped(p, 0.9)),
    "Lazy": lambda p: Lazy(p, holding=0.3),
    "Power": lambda p: Power(base=p, exponent=3),
    "forward_backward": forward_backward,
    "stored": lambda p: stored(p) if not p.batch_shape else p,
}


@pytest.mark.parametrize("make", DERIVED.values(), ids=DERIVED.keys())
def test_what_is_derived_is_derived_of_each_text(make):
    found = make(stack())
    expected = [
        torch.stack([make(as_transition(m)).to_dense() for m in text])
        for text in matrices()
    ]
    same(found.to_dense(), scattered(expected))
    assert found.axes == ("input", "head")


def test_jumps_and_stationary_distributions_are_given_for_all_states():
    jump = LIVE / LIVE.sum(-1, keepdim=True).double()
    found = Damped(stack(), 0.5, jump[:, None].expand(3, 2, 5))
    same(found.to_dense(), Damped(stack(), 0.5).to_dense())
    symmetric = [DenseTransition(torch.full((n, n), 1 / n).double()) for n in (3, 5, 2)]
    even = Stacked(symmetric, LIVE)
    same(Reversed(even, jump).to_dense(), even.to_dense())


@pytest.mark.parametrize("make", [Damped, Reversed])
def test_a_distribution_on_padding_is_refused(make):
    even = torch.full((5,), 0.2).double()
    arguments = (0.5, even) if make is Damped else (even,)
    with pytest.raises(ArgumentError, match="padding"):
        make(stack(), *arguments)


@pytest.mark.parametrize(
    "index", [1, -1, slice(1, 3), (0, 1), (slice(None), 0), torch.tensor([2, 0])]
)
def test_indexing_is_that_of_a_tensor(index):
    part = stack()[index]
    same(part.to_dense(), scattered(matrices())[index])
    assert torch.equal(part.live, stack().live[index])
    assert len(part.axes) == len(part.batch_shape)


def test_members_are_the_chains():
    sizes = [chain.n_states for chain in stack().chains()]
    assert sizes == [3, 3, 5, 5, 2, 2]
    assert [c.n_states for c in stack()[2, 1].chains()] == [2]


def test_all_texts_are_restricted_to_states_they_share():
    keep = torch.tensor([2, 1, 3])
    found = stack().restrict(keep)
    rows = [[2, 1], [2, 1, 3], [2, 3]]
    assert found.shape == (3, 2, 3, 3)
    for i, states in enumerate(rows):
        part = scattered(matrices())[i][:, states][..., states]
        expected = part / part.sum(-1, keepdim=True)
        places = [[2, 1, 3].index(state) for state in states]
        same(found.to_dense()[i][:, places][..., places], expected)
    same(found.to_dense().sum(-1), found.live.double())
    same(Restricted(stack(), keep).to_dense(), found.to_dense())


def test_the_order_of_states_may_change():
    order = torch.tensor([4, 2, 0, 1, 3])
    found = Permuted(stack(), order).to_dense()
    same(found, stack().to_dense()[..., order[:, None], order])
    with pytest.raises(ArgumentError, match="permutation"):
        Permuted(stack(), order[:3])


@pytest.mark.parametrize("axes", [2, 3])
def test_a_batch_is_restricted_to_states_of_each_text(axes):
    """A mask (texts, n), or one for each chain."""
    q, k = queries_and_keys(3, 2, 5, 4)
    mask = LIVE if axes == 2 else LIVE[:, None].expand(3, 2, 5)
    scores = (q @ k.mT / 2).masked_fill(~LIVE[:, None, None], -torch.inf)
    expected = scores.softmax(-1) * LIVE[:, None, :, None]
    chain = AttentionTransition(q, k)
    same(chain.restrict(mask).to_dense(), expected)
    stored_chain = DenseTransition(chain.to_dense())
    same(stored_chain.restrict(mask).to_dense(), expected)
    same(chain.restrict(torch.ones_like(mask)).restrict(mask).to_dense(), expected)
    one = stored_chain.restrict(LIVE[0])
    same(one.to_dense(), chain.restrict(LIVE[0]).to_dense())
    assert one.n_states == 3


def test_gradients_flow_to_queries():
    q, k = queries_and_keys(3, 2, 5, 4)
    values = torch.arange(5.0).double()
    found, expected = q.clone().requires_grad_(), q.clone().requires_grad_()
    AttentionTransition(found, k).restrict(LIVE).pull(values).square().sum().backward()
    scores = (expected @ k.mT / 2).masked_fill(~LIVE[:, None, None], -torch.inf)
    moved = scores.softmax(-1) @ values * LIVE[:, None]
    moved.square().sum().backward()
    same(found.grad, expected.grad)


def test_it_is_copied_moved_and_pickled_whole():
    for made in (
        stack().to(torch.float32).to(torch.float64),
        copy.copy(stack()),
        pickle.loads(pickle.dumps(stack())),  # noqa: S301
        copy.copy(Damped(stack())).each(lambda chain: chain.base),
    ):
        torch.testing.assert_close(
            made.to_dense(), stack().to_dense(), rtol=0, atol=1e-7
        )
    assert "20 of 30 states live" in repr(stack())


def test_mistakes_are_told():
    [first, *_] = matrices()
    one = as_transition(first[0])
    with pytest.raises(ShapeError, match=r"\[3\] states.*with \[5\]"):
        Stacked([one], torch.ones(5).bool())
    with pytest.raises(ShapeError, match="single chains"):
        Stacked([as_transition(first)], LIVE[0])
    with pytest.raises(ArgumentError, match="at least one"):
        Stacked([], LIVE)
    with pytest.raises(ShapeError, match="first batch dimensions"):
        stack().restrict(LIVE[:2])
    with pytest.raises(ArgumentError, match=r"chain \(0,\) of the batch is left no"):
        stack()[:, 0].restrict(torch.tensor([0, 3]))
    with pytest.raises(ShapeError, match="has padding"):
        Product([stack(), stack()])
    with pytest.raises(ShapeError, match="has padding"):
        Mixture([stack()], [torch.full((3, 2), 1 / 6)])
    with pytest.raises(ShapeError, match="does not fit batch"):
        stack()[3]
