"""Chains of the kinds on which numerics go wrong, random but for their kind.

Each builder takes the number of states, at least 2, and a generator of random numbers,
and returns a transition matrix `(n, n)` in float64. They are what attention does to
padding, sinks, copies and long pictures, driven to the end. `HARD` holds all by name.
"""

import math
from collections.abc import Callable
from typing import Final

import torch
from torch import Generator, Tensor

from attnchain.testing.chains import birth_death, cycle

Builder = Callable[[int, Generator], Tensor]


def equal_rows(n: int, generator: Generator) -> Tensor:
    """Every token looks at the others alike: rank one, mixed after one bounce."""
    return _rows(1, n, generator).repeat(n, 1)


def low_rank(n: int, generator: Generator) -> Tensor:
    """Every row is a mixture of two distributions: n - 2 eigenvalues are zero."""
    return _divided(_rows(n, 2, generator) @ _rows(2, n, generator))


def sink(n: int, generator: Generator) -> Tensor:
    """One token is scored 25 to 45 nats above the rest by every token."""
    scores = _scores(n, generator)
    scores[:, _one_of(n, generator)] += 25 + 20 * _number(generator)
    return scores.softmax(-1)


def self_looking(n: int, generator: Generator) -> Tensor:
    """Every token is scored 15 to 60 nats above the rest by itself."""
    own = 15 + 45 * _number(generator)
    return (_scores(n, generator) + own * torch.eye(n, dtype=torch.float64)).softmax(-1)


def unseen(n: int, generator: Generator) -> Tensor:
    """One token is scored 30 to 50 nats below the rest by every token."""
    scores = _scores(n, generator)
    scores[:, _one_of(n, generator)] -= 30 + 20 * _number(generator)
    return scores.softmax(-1)


def barely_entered(n: int, generator: Generator) -> Tensor:
    """One state is entered with probability 1e-20, or never."""
    matrix = _rows(n, n, generator)
    never = _number(generator) < 0.5
    matrix[:, _one_of(n, generator)] = 0.0 if never else 1e-20
    return _divided(matrix)


def nearly_decomposable(n: int, generator: Generator) -> Tensor:
    """Two blocks that are left with different probabilities from 1e-2 to 1e-12."""
    first = 1 + _one_of(n - 1, generator)
    labels = torch.arange(n) >= first
    leaving = 10 ** -(2 + 10 * torch.rand(2, generator=generator, dtype=torch.float64))
    away = labels[:, None] != labels
    inside = _divided(_rows(n, n, generator).masked_fill(away, 0.0))
    outside = _divided(_rows(n, n, generator).masked_fill(~away, 0.0))
    share = leaving[labels.long()][:, None]
    return (1 - share) * inside + share * outside


def round_trip(n: int, generator: Generator) -> Tensor:
    """A cycle through all states in random order: n eigenvalues on the circle."""
    order = torch.randperm(n, generator=generator)
    return cycle(n).matrix[order][:, order]


def transient(n: int, generator: Generator) -> Tensor:
    """Some states lead to a closed class and are never entered from it."""
    inner = 1 + _one_of(n - 1, generator)
    matrix = _rows(n, n, generator)
    matrix[:inner, inner:] = 0.0
    order = torch.randperm(n, generator=generator)
    return _divided(matrix)[order][:, order]


def drift(n: int, generator: Generator) -> Tensor:
    """A walk that steps up far more often than down: eigenvectors nearly parallel."""
    up = 0.5 + 0.4 * _number(generator)
    return birth_death(n, up, (1 - up) * 0.1 * (1 + _number(generator))).matrix


HARD: Final[dict[str, Builder]] = {
    builder.__name__: builder
    for builder in (
        equal_rows,
        low_rank,
        sink,
        self_looking,
        unseen,
        barely_entered,
        nearly_decomposable,
        round_trip,
        transient,
        drift,
    )
}


def _number(generator: Generator) -> float:
    return float(torch.rand((), generator=generator, dtype=torch.float64))


def _one_of(n: int, generator: Generator) -> int:
    return math.floor(n * _number(generator))


def _scores(n: int, generator: Generator) -> Tensor:
    return torch.randn(n, n, generator=generator, dtype=torch.float64)


def _rows(n: int, m: int, generator: Generator) -> Tensor:
    """N distributions over m states, without zeros, of uneven entries."""
    weights = torch.rand(n, m, generator=generator, dtype=torch.float64)
    return _divided(weights**3 + 1e-3)


def _divided(weights: Tensor) -> Tensor:
    return weights / weights.sum(-1, keepdim=True)
