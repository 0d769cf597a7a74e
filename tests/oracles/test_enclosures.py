"""Stationary distributions lie within their bound, by FLINT's rigorous enclosures.

The sample runs always; all 1,400 chains and 56 of 60 states, about a minute:
`pytest -m exhaustive`.
"""

from collections import Counter

import pytest
import torch
from tests.oracles import enclosures

from attnchain.errors import ChainError
from attnchain.markov import stationary
from attnchain.operators import (
    AttentionTransition,
    ColumnNormalized,
    Damped,
    DenseTransition,
    Mixture,
    Restricted,
)
from attnchain.testing.hard import HARD

DAMPINGS = (0.5, 0.85, 0.99, 0.999, 0.9999, None)
PRECISIONS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def uniform(generator, low, high):
    return low + (high - low) * float(torch.rand((), generator=generator))


def one_of(generator, things):
    return things[int(uniform(generator, 0, len(things)))]


def stored(n, g, dtypes=(torch.float64,)):
    """A matrix of a hard kind."""
    build = one_of(g, list(HARD.values()))
    matrix = build(n, g).to(one_of(g, dtypes))
    return DenseTransition(matrix), enclosures.divided(enclosures.given(matrix))


def rounded(n, g):
    """The same in a lower precision, whose rows do not sum to one."""
    return stored(n, g, PRECISIONS[1:])


def attention(n, g, mask=None, dtypes=PRECISIONS):
    """Queries and keys in some precision, scores up to hundreds."""
    q, k = (uniform(g, 0.1, 4) * torch.randn(2, n, 4, generator=g)).to(
        one_of(g, dtypes)
    )
    options = {"mask": mask, "causal": uniform(g, 0, 1) < 0.2}
    backend = one_of(g, ("dense", "tiled"))
    chain = AttentionTransition(q, k, scale=0.5, backend=backend, **options)
    return chain, enclosures.attention(q, k, 0.5, **options)


def masked(n, g):
    """Hidden keys, a bias, one key far below the rest."""
    seen = (torch.rand(n, n, generator=g) < 0.7) | torch.eye(n, dtype=torch.bool)
    bias = 8 * torch.randn(n, n, generator=g)
    key = torch.zeros(1, n)
    key[0, -1] = -36.0
    return attention(n, g, one_of(g, (seen, bias, key)))


def lowered_rows(n, g):
    """Whole rows moved by a huge bias, which changes nothing in a softmax."""
    rows = torch.zeros(n, n)
    rows[torch.rand(n, generator=g) < 0.5] = -1e30
    return attention(n, g, rows)


def mixture(n, g):
    """Heads in single precision under weights in double precision."""
    parts = [attention(n, g, dtypes=(torch.float32,)) for _ in range(3)]
    weights = torch.rand(3, generator=g, dtype=torch.float64)
    weights = weights / weights.sum()
    chain = Mixture([chain for chain, _ in parts], list(weights))
    return chain, enclosures.mixture([matrix for _, matrix in parts], weights)


def restricted(n, g):
    """The tokens left when one is dropped."""
    chain, matrix = masked(n + 1, g)
    keep = torch.randperm(n + 1, generator=g)[:n]
    return Restricted(chain, keep), enclosures.restricted(matrix, keep.tolist())


KINDS = (stored, rounded, attention, masked, lowered_rows, mixture, restricted)


def drawn(kind, seed, n=None):
    """A chain and its enclosure, from a seed."""
    g = torch.Generator().manual_seed(seed)
    n = n or 2 + seed % 29
    damping, outgoing = one_of(g, DAMPINGS), uniform(g, 0, 1) < 0.4
    chain, matrix = kind(n, g)
    if damping is not None:
        v = torch.rand(n, generator=g, dtype=torch.float64) if seed % 3 == 0 else None
        v = v if v is None else v / v.sum()
        chain, matrix = Damped(chain, damping, v), enclosures.damped(matrix, damping, v)
    if outgoing:
        chain, matrix = ColumnNormalized(chain), enclosures.column_normalized(matrix)
    return chain, matrix


def checked(kind, seeds, n=None):
    """Answers that lie outside their bound, and how many there were and were not."""
    wrong, ended = [], Counter()
    for seed in seeds:
        try:
            chain, matrix = drawn(kind, seed, n)
            found = stationary(chain)
        except ChainError as error:
            ended[type(error).__name__] += 1
            continue
        ended["answered"] += 1
        bound = float(found.error_bound)
        try:
            assert bound <= 1e-6
            pi = enclosures.stationary(matrix)
            enclosures.assert_within(found.distribution, pi, bound)
        except AssertionError as error:
            wrong.append(f"seed {seed}: {error}")
    return wrong, ended


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_of_answers_lies_within_the_bound(kind):
    wrong, ended = checked(kind, range(8))
    assert wrong == []
    assert ended["answered"] >= 5, ended


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("seeds", "n"), [(range(8, 208), None), (range(8), 60)], ids=["small", "sixty"]
)
def test_all_answers_lie_within_the_bound(kind, seeds, n):
    wrong, ended = checked(kind, seeds, n)
    assert wrong == []
    assert ended["answered"] >= 0.6 * len(seeds), ended


def test_the_oracle_knows_a_wrong_answer_and_a_bound_too_small():
    matrix = torch.tensor([[0.9, 0.1], [0.5, 0.5]], dtype=torch.float64)
    pi = enclosures.stationary(enclosures.divided(enclosures.given(matrix)))
    right = torch.tensor([5 / 6, 1 / 6], dtype=torch.float64)
    enclosures.assert_within(right, pi, 1e-15)
    for found, bound in [(right + 1e-9, 1e-10), (right.flip(0), 0.1), (right, 0.0)]:
        with pytest.raises(AssertionError, match=">"):
            enclosures.assert_within(found, pi, bound)


def test_the_oracle_finds_eigenvalues_of_high_multiplicity():
    equal = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64).repeat(3, 1)
    assert [abs(x) for x in enclosures.eigenvalues(equal)] == [1.0, 0.0, 0.0]
