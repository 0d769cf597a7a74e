"""Attention inside groups, and what groups keep, where the answer is known."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.operators.builders import queries_and_keys, random_rows

from attnchain.errors import ArgumentError, ShapeError
from attnchain.markov import stationary
from attnchain.operators import (
    AttentionTransition,
    DenseTransition,
    Grouped,
    Restricted,
    kept_mass,
)

LABELS = torch.tensor([0, 2, 1, 0, 1, 2, 0])


def chain(*shape, **options):
    return AttentionTransition(*queries_and_keys(*shape, 7, 3), **options)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=9))
def test_any_partition_conditions_every_row_on_its_group(given_labels):
    _, labels = torch.tensor(given_labels).unique(return_inverse=True)
    base = AttentionTransition(*queries_and_keys(len(labels), 3))
    rows = base.to_dense() * (labels[:, None] == labels)
    kept = kept_mass(base, labels)
    torch.testing.assert_close(kept, rows.sum(-1))
    found = Grouped(base, labels).to_dense()
    torch.testing.assert_close(found, rows / rows.sum(-1, keepdim=True))


def test_each_group_is_the_restricted_chain():
    base = chain(2)
    whole = Grouped(base, LABELS).to_dense()
    for group in range(3):
        inside = group == LABELS
        block = Restricted(base, inside).to_dense()
        torch.testing.assert_close(whole[:, inside][..., inside], block)


def test_one_is_an_eigenvalue_once_for_each_group():
    values = torch.linalg.eigvals(Grouped(chain(), LABELS).to_dense())
    assert int(((values - 1).abs() < 1e-9).sum()) == 3


def test_a_walk_ends_in_the_stationary_distribution_of_its_group():
    whole = Grouped(chain(), LABELS)
    walk = torch.eye(7, dtype=torch.float64)[1]
    for _ in range(200):
        walk = whole.push(walk)
    inside = LABELS == 2
    alone = stationary(chain().restrict(inside)).distribution
    torch.testing.assert_close(walk[inside], alone)
    assert float(walk[~inside].sum()) == 0


def test_one_group_is_the_chain_and_single_tokens_stay():
    base = chain(2)
    everything = Grouped(base, torch.zeros(7, dtype=torch.long))
    torch.testing.assert_close(everything.to_dense(), base.to_dense())
    alone = Grouped(base, torch.arange(7)).to_dense()
    torch.testing.assert_close(alone, torch.eye(7).double().expand(2, 7, 7))


def test_what_groups_keep_of_a_stored_batch():
    matrices = torch.from_numpy(random_rows(2, 4, 4))
    labels = torch.tensor([[0, 1, 0, 1], [1, 0, 0, 0]])
    found = kept_mass(DenseTransition(matrices), labels)
    same = labels[:, :, None] == labels[:, None]
    torch.testing.assert_close(found, (matrices * same).sum(-1))


@pytest.mark.parametrize(
    ("labels", "error", "words"),
    [
        (torch.tensor([0, 1]), ShapeError, "labels must be whole numbers"),
        (torch.zeros(7), ShapeError, "float32"),
        ([0] * 7, ShapeError, "whole numbers"),
        (torch.tensor([0, 0, 0, 2, 2, 2, 2]), ArgumentError, "group 1 has none"),
        (torch.tensor([0, 0, 0, -1, 0, 0, 0]), ArgumentError, "-1"),
        (torch.tensor([0, 0, 0, 7, 0, 0, 0]), ArgumentError, "0 to 7 came"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, error, words):
    for call in (Grouped, kept_mass):
        with pytest.raises(error, match=words):
            call(chain(), labels)


def test_a_group_empty_in_one_chain_is_refused():
    labels = torch.stack([LABELS, torch.tensor([0, 0, 1, 0, 1, 1, 0])])
    with pytest.raises(ArgumentError, match="group 2 has none"):
        Grouped(chain(2), labels)


def test_other_chains_are_refused():
    for other in (
        chain(causal=True),
        chain(mask=LABELS > 0),
        DenseTransition(torch.eye(7)),
        "chain",
    ):
        with pytest.raises(ArgumentError, match="neither masked nor causal"):
            Grouped(other, LABELS)
