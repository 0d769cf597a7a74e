"""Salience against formulas written out by hand in float64."""

import pytest
import torch

from attnchain.errors import ArgumentError, ShapeError, ToleranceError
from attnchain.guidance import Salience, salience
from attnchain.markov import second_eigenvalue
from attnchain.operators import (
    AttentionTransition,
    DenseTransition,
)


@pytest.fixture
def attention(generator):
    q, k = (2 * torch.randn(3, 2, 7, 4, generator=generator) for _ in range(2))
    return AttentionTransition(q, k)


@pytest.fixture
def mean(attention):
    scores = attention.q.double() @ attention.k.double().mT / 2
    return scores.softmax(-1).mean(1)


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a.double(), b.double(), rtol=0, atol=tolerance)


def test_column_sum_is_the_sum_over_queries(attention, mean):
    close(Salience("column_sum").of(attention), mean.sum(1))


def test_token_rank_is_the_left_eigenvector(attention, mean):
    damped = 0.99 * mean + 0.01 / 7
    values, vectors = torch.linalg.eig(damped.mT)
    first = values.real.argmax(-1)
    pi = torch.stack([v[:, i].real for v, i in zip(vectors, first, strict=True)])
    close(Salience("token_rank").of(attention), 7 * pi / pi.sum(-1, keepdim=True))


def test_token_rank_outgoing_damps_and_then_normalises_columns(attention, mean):
    damped = 0.99 * mean + 0.01 / 7
    chain = damped / damped.sum(1, keepdim=True)
    pi = torch.full((3, 7, 1), 1 / 7, dtype=torch.float64)
    for _ in range(3000):
        pi = chain @ pi
    close(Salience(direction="outgoing").of(attention), 7 * pi[..., 0])


def test_bounces_are_powers_of_the_damped_chain(attention, mean):
    damped = 0.9 * mean + 0.1 / 7
    expected = torch.linalg.matrix_power(damped, 3).sum(1)
    close(Salience("bounces", bounces=3, damping=0.9).of(attention), expected)


def test_one_undamped_bounce_is_the_column_sum_and_many_are_token_rank(attention):
    one = Salience("bounces", bounces=1, damping=1.0).of(attention)
    close(one, Salience("column_sum").of(attention))
    many = Salience("bounces", bounces=2000).of(attention)
    close(many, Salience("token_rank").of(attention), 1e-3)


def test_lambda2_weighs_the_heads_of_each_picture(attention):
    moduli = torch.tensor(
        [
            [float(second_eigenvalue(attention[p, h]).modulus) for h in range(2)]
            for p in range(3)
        ]
    )
    weights = moduli / moduli.sum(-1, keepdim=True)
    mixed = (attention.to_dense() * weights[..., None, None]).sum(1)
    expected = Salience("column_sum").of(DenseTransition(mixed[:, None]))
    found = Salience("column_sum", heads="lambda2").of(attention)
    close(found, expected)
    assert not torch.allclose(found, Salience("column_sum").of(attention), atol=1e-3)


@pytest.mark.parametrize("kind", ["column_sum", "token_rank", "bounces"])
@pytest.mark.parametrize("direction", ["incoming", "outgoing"])
def test_chains_too_large_to_store_give_the_same(
    attention, monkeypatch, kind, direction
):
    asked = Salience(kind, direction=direction, tolerance=1e-7)
    stored = asked.of(attention)
    monkeypatch.setattr(salience, "fits_budget", lambda *_: False)
    close(asked.of(attention), stored)


def test_masked_attention_is_followed_as_it_is(attention):
    mask = torch.ones(7, 7, dtype=torch.bool).tril()
    masked = AttentionTransition(attention.q, attention.k, mask=mask)
    close(Salience("column_sum").of(masked), masked.to_dense().mean(1).sum(1))


def test_a_tolerance_below_rounding_is_not_claimed(attention):
    with pytest.raises(ToleranceError, match="1e-30"):
        Salience(tolerance=1e-30).of(attention)


def test_the_mean_token_has_salience_one(attention):
    for kind in ("column_sum", "token_rank", "bounces"):
        close(Salience(kind).of(attention).mean(-1), torch.ones(3))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "row_sum"}, "kind must be one of"),
        ({"direction": "up"}, "direction must be one of"),
        ({"heads": "best"}, "heads must be one of"),
        ({"damping": 1.5}, "damping"),
        ({"damping": "x"}, "damping must be a finite number"),
        ({"bounces": 0}, "bounces must be a whole number"),
        ({"bounces": 2.0}, "bounces must be a whole number"),
        ({"bounces": float("inf")}, "bounces must be a whole number"),
        ({"bounces": None}, "bounces must be a whole number"),
        ({"tolerance": "a"}, "tolerance must be a finite number"),
        ({"tolerance": 0.0}, "tolerance must be > 0"),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(ArgumentError, match=words):
        Salience(**options)


def test_chains_need_pictures_and_heads(mean):
    with pytest.raises(ShapeError, match=r"batch shape \(pictures, heads\)"):
        Salience().of(DenseTransition(mean))


def test_heads_that_all_forget_at_once_have_no_weights_by_lambda2():
    alike = AttentionTransition(torch.zeros(1, 2, 5, 3), torch.zeros(1, 2, 5, 3))
    with pytest.raises(ArgumentError, match="uniform"):
        Salience("column_sum", heads="lambda2").of(alike)
    close(Salience("column_sum").of(alike), torch.ones(1, 5))
