"""Answers for texts of different lengths in one batch are those of each text alone."""

import numpy as np
import pytest
import torch
from tests.operators.builders import queries_and_keys, random_rows

from attnchain import token_rank
from attnchain.errors import ArgumentError, ShapeError
from attnchain.markov import (
    closed_classes,
    coarse_grained,
    detailed_balance_error,
    explained_bounce,
    is_irreducible,
    is_reversible,
    is_stochastic,
    leading_subspaces,
    metastable_levels,
    metastable_sets,
    mix,
    mixing_time,
    propagate,
    relaxation_time,
    second_eigenvalue,
    spectrum,
    stationary,
)
from attnchain.operators import AttentionTransition, Damped, Stacked, as_transition

LIVE = torch.tensor(
    [[0, 0, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1, 1], [1, 1, 0, 1, 0, 0, 0]]
).bool()


@pytest.fixture
def batch():
    q, k = queries_and_keys(3, 2, 7, 4)
    return AttentionTransition(q, k, axes=("input", "head")).restrict(LIVE)


def alone(chains):
    """Each text's two heads, as a batch without padding."""
    return [
        as_transition(text.to_dense()[:, live][..., live])
        for text, live in zip(chains, LIVE, strict=True)
    ]


def same(found, expected, atol=1e-9):
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def assert_placed(found, expected, atol=1e-9):
    """Values of live states are those expected, all others 0."""
    for i, (live, own) in enumerate(zip(LIVE, expected, strict=True)):
        same(found[i][..., live], own, atol)
        assert not found[i][..., ~live].any()


DISTRIBUTIONS = {
    "incoming": lambda p: token_rank(p).distribution,
    "outgoing": lambda p: token_rank(p, direction="outgoing").distribution,
    "undamped": lambda p: stationary(p).distribution,
    "by power": lambda p: stationary(Damped(p, 0.9), solver="power").distribution,
}


@pytest.mark.parametrize("ask", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS.keys())
def test_distributions_are_those_of_each_text(batch, ask):
    assert_placed(ask(batch), [ask(text) for text in alone(batch)], 1e-6)


@pytest.mark.parametrize("direction", ["incoming", "outgoing"])
def test_bounces_are_those_of_each_text(batch, direction):
    """From token 3, which all texts have."""
    found = propagate(batch, 3, 4, direction=direction)
    starts = [int(live[:3].sum()) for live in LIVE]
    expected = [
        propagate(text, start, 4, direction=direction)
        for text, start in zip(alone(batch), starts, strict=True)
    ]
    assert_placed(found, expected)


NUMBERS = {
    "second_eigenvalue": lambda p: second_eigenvalue(p).modulus,
    "relaxation_time": relaxation_time,
    "mixing_time": lambda p: mixing_time(p, stationary(p).distribution),
    "detailed_balance": lambda p: detailed_balance_error(p, stationary(p).distribution),
    "explained_bounce": lambda p: explained_bounce(p, [2, 3], 2),
    "spectrum": lambda p: spectrum(p, 2).eigenvalues.abs(),
    "leading_subspaces": lambda p: leading_subspaces(p, 1).eigenvalues.abs(),
}


@pytest.mark.parametrize("ask", NUMBERS.values(), ids=NUMBERS.keys())
def test_numbers_are_those_of_each_text(batch, ask):
    same(ask(batch), torch.stack([ask(text) for text in alone(batch)]))


def test_observables_are_zero_at_padding(batch):
    found = spectrum(batch, 2).basis
    assert found.shape == (3, 2, 7, 2)
    expected = [spectrum(text, 2).basis.mT for text in alone(batch)]
    assert_placed(found.mT.abs(), [own.abs() for own in expected], 1e-7)


@pytest.mark.parametrize("ask", [spectrum, explained_bounce, leading_subspaces])
def test_no_more_eigenvalues_than_the_shortest_text_has(batch, ask):
    options = (4, 1) if ask is explained_bounce else (4,)
    with pytest.raises(ArgumentError, match="k must"):
        ask(batch, *options)


def test_gradients_are_those_of_each_text():
    q, k = queries_and_keys(3, 2, 7, 4)
    values = torch.arange(7.0).double()
    q.requires_grad_()
    chains = AttentionTransition(q, k).restrict(LIVE)
    (token_rank(chains, damping=0.8).distribution @ values).sum().backward()
    for i, live in enumerate(LIVE):
        own = q.detach()[i][:, live].requires_grad_()
        text = AttentionTransition(own, k[i][:, live])
        rank = token_rank(text, damping=0.8).distribution
        (rank @ values[live]).sum().backward()
        same(q.grad[i][:, live], own.grad, 1e-7)
        assert not q.grad[i][:, ~live].any()


def test_sets_are_those_of_the_text_alone():
    """Three tokens on either side of padding."""
    live = torch.tensor([1, 1, 1, 0, 1, 1, 1]).bool()
    matrix = torch.full((6, 6), 0.01).double()
    matrix[:3, :3] += torch.tensor([0.5, 0.3, 0.2])
    matrix[3:, 3:] += torch.tensor([0.1, 0.4, 0.5])
    text = as_transition(matrix / matrix.sum(-1, keepdim=True))
    chain = Stacked([text], live)
    expected, found = metastable_sets(text, 2), metastable_sets(chain, 2)
    assert found.labels[3] == -1
    assert not found.memberships[3].any()
    assert torch.equal(found.labels[live], expected.labels)
    same(found.memberships[live], expected.memberships)
    same(found.retention, expected.retention)
    [level] = metastable_levels(chain, max_count=2)
    same(level.memberships, found.memberships)
    same(coarse_grained(chain, found.memberships).coarse, found.coarse, 1e-6)
    known = stationary(chain).distribution
    same(metastable_sets(chain, 2, pi=known).prevalence, found.prevalence, 1e-6)


def test_sets_of_a_batch_are_asked_text_by_text(batch):
    with pytest.raises(ShapeError, match="one chain"):
        metastable_sets(batch, 2)


def test_structure_is_that_of_each_text(batch):
    assert is_stochastic(batch)
    assert is_irreducible(batch)
    assert not is_reversible(batch, stationary(batch).distribution)
    causal = AttentionTransition(*queries_and_keys(7, 4), causal=True)
    kept = torch.tensor([0, 0, 1, 1, 0, 1, 1]).bool()
    whole = Stacked([causal.restrict(kept)], kept)
    assert [c.tolist() for c in closed_classes(whole)] == [[2]]
    assert token_rank(whole).absorbing == (2,)


def test_a_walk_cannot_start_on_padding(batch):
    with pytest.raises(ArgumentError, match="padding"):
        propagate(batch, 0, 1)
    even = LIVE / LIVE.sum(-1, keepdim=True).double()
    start = even[:, None].expand(3, 2, 7)
    same(propagate(batch, start, 0), start)


@pytest.mark.parametrize("weights", ["uniform", "lambda2"])
def test_heads_are_mixed_for_each_text(batch, weights):
    found = mix(batch, weights)
    assert found.batch_shape == (3,)
    assert found.axes == ("input",)
    for i, (live, text) in enumerate(zip(LIVE, alone(batch), strict=True)):
        expected = mix(text, weights).to_dense()
        same(found.to_dense()[i][live][:, live], expected)
    rank = token_rank(found).distribution
    assert_placed(
        rank, [token_rank(mix(t, weights)).distribution for t in alone(batch)], 1e-6
    )


def test_one_text_among_padding_is_mixed(batch):
    same(mix(batch[0]).to_dense(), mix(batch).to_dense()[0])


def test_texts_are_never_averaged_unless_nobody_named_them():
    rows = random_rows(2, 3, 4, 4)
    named = as_transition(torch.from_numpy(rows))
    named = type(named)(named.matrix, axes=("input", "head"))
    found = mix([named, named], "uniform")
    np.testing.assert_allclose(found.to_dense(), rows.mean(1), atol=1e-12)
    one_head = mix([named[:, 0], named[:, 1]], "uniform")
    np.testing.assert_allclose(one_head.to_dense(), rows[:, :2].mean(1), atol=1e-12)
    own = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]]).double()
    expected = np.einsum("th,thij->tij", own.numpy(), rows)
    np.testing.assert_allclose(mix(named, own).to_dense(), expected, atol=1e-12)
    moduli = second_eigenvalue(named).modulus
    same(mix(named, lambda2=[moduli]).to_dense(), mix(named).to_dense())


def test_what_cannot_be_mixed_for_each_text_is_told(batch):
    unnamed = Stacked(batch.members, batch.live)
    with pytest.raises(ShapeError, match="live states differ"):
        mix(unnamed, "uniform")
    with pytest.raises(ShapeError, match="must have that axis"):
        mix([batch, batch[0]], "uniform")
    with pytest.raises(ShapeError, match="batch shapes"):
        mix(batch, torch.tensor([0.5, 0.5]))


def test_sets_of_several_texts_are_asked_one_by_one(batch):
    mixed = Damped(mix(batch, "uniform"), 0.5)
    with pytest.raises(ShapeError, match=r"metastable_sets\(chains\[i\]\) for i in"):
        metastable_sets(mixed, 2)
    found = [metastable_sets(mixed[i], 2).labels for i in range(len(LIVE))]
    for labels, live in zip(found, LIVE, strict=True):
        assert torch.equal(labels >= 0, live)
