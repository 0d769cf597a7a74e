"""Semantic Equitable Clustering: where it must succeed, and where it must fail."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from tests.operators.builders import queries_and_keys

from attnchain import as_transition
from attnchain.errors import ArgumentError, NotStochasticError, ShapeError
from attnchain.methods.sec import (
    equitable_groups,
    even_groups,
    grouped_attention,
    slow_groups,
)
from attnchain.operators import AttentionTransition, DenseTransition, kept_mass
from attnchain.testing import chains

TRUE = torch.arange(64) % 4


def agreement(found, true):
    """Share of tokens in the right group, groups matched as well as can be."""
    table = torch.zeros(4, 4).index_put(
        (found, true), torch.ones(len(true)), accumulate=True
    )
    rows, columns = linear_sum_assignment(-table.numpy())
    return float(table[rows, columns].sum()) / len(true)


def around_an_axis():
    """Four groups, each at an angle of its own from one axis, spread around it."""
    angle = torch.tensor([10.0, 35.0, 60.0, 85.0])[TRUE] * math.pi / 180
    turn = 2 * math.pi * torch.arange(64) / 64
    around = torch.stack([turn.cos(), turn.sin()], -1) * angle.sin()[:, None]
    return torch.cat([angle.cos()[:, None], around], -1)


def orthogonal(seed=0):
    """Four orthogonal directions, which have one cosine to their mean."""
    generator = torch.Generator().manual_seed(seed)
    return torch.eye(4)[TRUE] + 0.01 * torch.randn(64, 4, generator=generator)


def test_groups_at_different_cosines_to_the_mean_are_found():
    assert agreement(equitable_groups(around_an_axis(), 4), TRUE) == 1.0


def test_groups_at_one_cosine_to_the_mean_are_not():
    """The negative control: no better than random groups, and they keep no more."""
    keys = orthogonal()
    found = equitable_groups(keys, 4)
    assert agreement(found, TRUE) < 0.5
    chain = AttentionTransition(keys, keys, scale=8.0)
    assert float(kept_mass(chain, TRUE).mean()) > 0.98
    assert float(kept_mass(chain, found).mean()) < 0.4
    slow = slow_groups(chain, 4)
    assert agreement(slow, TRUE) == 1.0


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 30), data=st.data())
def test_groups_are_equal_whatever_the_order_of_tokens(n, data):
    groups = data.draw(st.integers(1, n))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10_000)))
    keys = torch.randn(2, n, 3, generator=generator, dtype=torch.float64) + 0.3
    order = torch.randperm(n, generator=generator)
    found = equitable_groups(keys, groups)
    sizes = torch.stack([row.bincount(minlength=groups) for row in found])
    assert sizes.min() >= n // groups
    assert sizes.max() <= -(-n // groups)
    assert torch.equal(equitable_groups(keys[:, order], groups), found[:, order])
    assert torch.equal(equitable_groups(3 * keys, groups), found)


def test_groups_are_those_of_sorting_by_hand():
    _, keys = queries_and_keys(12, 5)
    mean = keys.mean(0)
    cosines = [float(k @ mean / k.norm() / mean.norm()) for k in keys]
    order = sorted(range(12), key=cosines.__getitem__)
    expected = torch.empty(12, dtype=torch.long)
    for place, token in enumerate(order):
        expected[token] = place // 3
    assert torch.equal(equitable_groups(keys, 4), expected)


def test_among_equals_order_decides():
    assert even_groups(torch.zeros(6), 3).tolist() == [0, 0, 1, 1, 2, 2]


def test_what_has_no_groups_is_refused():
    with pytest.raises(ArgumentError, match="mean of the keys is zero"):
        equitable_groups(torch.tensor([[1.0], [-1.0]]), 2)
    with pytest.raises(ArgumentError, match="groups must lie in 1"):
        equitable_groups(torch.ones(3, 2), 4)
    with pytest.raises(ShapeError, match="keys must be"):
        equitable_groups(torch.ones(3), 1)
    with pytest.raises(ShapeError, match="tokens and features"):
        equitable_groups(torch.ones(3, 0), 1)
    with pytest.raises(NotStochasticError, match="keys"):
        equitable_groups(torch.full((3, 2), torch.nan), 1)
    with pytest.raises(ShapeError, match="last axis"):
        even_groups(torch.tensor(1.0), 1)


class TestSlowGroups:
    def test_pairs_of_blocks_are_found(self):
        """Two blocks that are hard to leave, of two blocks each."""
        halves = chains.block_diagonal(2, 2, coupling=0.05).matrix
        quarters = chains.block_diagonal(4, 6, coupling=0.2).matrix
        matrix = torch.kron(halves, torch.ones(6, 6) / 6) / 2 + quarters / 2
        blocks = torch.arange(24) // 6
        assert agreement(slow_groups(DenseTransition(matrix), 4), blocks) == 1.0

    @pytest.mark.parametrize("groups", [1, 2, 3, 5, 7, 20])
    def test_sizes_differ_by_at_most_one(self, groups):
        chain = AttentionTransition(*queries_and_keys(2, 20, 3))
        for row in slow_groups(chain, groups):
            sizes = row.bincount(minlength=groups)
            assert sizes.max() - sizes.min() <= int(20 % groups > 0)

    def test_each_chain_of_a_batch_is_cut_on_its_own(self):
        chain = AttentionTransition(*queries_and_keys(2, 3, 10, 4))
        together = slow_groups(chain, 2)
        for i, head in enumerate(chain.chains()):
            alone = slow_groups(head, 2)
            same = together.view(6, 10)[i] == alone
            assert bool(same.all()) or not bool(same.any())

    def test_a_fast_alternation_is_not_taken_for_a_slow_mode(self):
        """Eigenvalues 1, .5, -.9, -.4: the largest modulus is not the slowest."""
        slow = torch.tensor([[0.75, 0.25], [0.25, 0.75]]).double()
        swap = torch.tensor([[0.05, 0.95], [0.95, 0.05]]).double()
        chain = as_transition(torch.kron(slow, swap))
        labels = slow_groups(chain, 2)
        assert labels[0] == labels[1] != labels[2] == labels[3]

    def test_what_cannot_be_cut_is_refused(self):
        chain = AttentionTransition(*queries_and_keys(4, 3))
        with pytest.raises(ArgumentError, match="groups must lie in"):
            slow_groups(chain, 5)
        with pytest.raises(ArgumentError, match="chain must be a transition"):
            slow_groups(torch.eye(3), 2)


class TestGroupedAttention:
    labels = torch.tensor([0, 1, 1, 0, 2, 2])

    def tensors(self, n, grad=False):
        generator = torch.Generator().manual_seed(0)
        return [
            torch.randn(
                2, 3, n, 4, generator=generator, dtype=torch.float64
            ).requires_grad_(grad)
            for _ in range(3)
        ]

    @pytest.mark.parametrize("prefix", [0, 2])
    @pytest.mark.parametrize("labels", [(0, 1, 1, 0, 2, 2), (0, 0, 0, 0, 1, 0)])
    def test_is_softmax_over_prefix_and_group(self, labels, prefix):
        labels = torch.tensor(labels)
        q, k, v = self.tensors(6 + prefix)
        seen = torch.ones(6 + prefix, 6 + prefix, dtype=torch.bool)
        seen[prefix:, prefix:] = labels[:, None] == labels
        scores = (0.7 * q @ k.mT).masked_fill(~seen, -torch.inf)
        found = grouped_attention(q, k, v, labels, prefix=prefix, scale=0.7)
        torch.testing.assert_close(found, scores.softmax(-1) @ v)

    def test_each_head_may_have_its_own_groups(self):
        q, k, v = self.tensors(6)
        labels = equitable_groups(k, 2)
        same = labels[..., :, None] == labels[..., None, :]
        scores = (q @ k.mT / 2).masked_fill(~same, -torch.inf)
        found = grouped_attention(q, k, v, labels)
        torch.testing.assert_close(found, scores.softmax(-1) @ v)

    @pytest.mark.parametrize("prefix", [0, 1])
    def test_is_differentiable(self, prefix):
        tensors = self.tensors(4 + prefix, grad=True)
        labels = torch.tensor([0, 1, 1, 0])
        small = [x[:1, :1] for x in tensors]
        assert torch.autograd.gradcheck(
            lambda q, k, v: grouped_attention(q, k, v, labels, prefix=prefix), small
        )

    def test_what_does_not_fit_is_refused(self):
        q, k, v = self.tensors(6)
        with pytest.raises(ShapeError, match="query, key and value"):
            grouped_attention(q, k[..., :5, :], v, self.labels)
        with pytest.raises(ShapeError, match="labels must be"):
            grouped_attention(q, k, v, self.labels, prefix=1)
        with pytest.raises(ArgumentError, match="prefix"):
            grouped_attention(q, k, v, self.labels, prefix=6)
