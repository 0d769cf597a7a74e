"""Hypothesis strategies for transition matrices, distributions, queries and keys.

Needs hypothesis, which the package does not install.
"""

from collections.abc import Sequence
from typing import NamedTuple

import hypothesis.strategies as st
import torch
from hypothesis.extra import numpy as hnp
from torch import Tensor

from attnchain.testing.hard import HARD

MAX_SCORE = 1e4
"""Largest score before softmax that `attention_inputs` draws."""


class AttentionInput(NamedTuple):
    """Arguments of one attention chain; every query may see its own key."""

    q: Tensor
    k: Tensor
    mask: Tensor | None
    causal: bool


@st.composite
def distributions(draw: st.DrawFn, n: int, *, positive: bool = False) -> Tensor:
    """A distribution over n states, float64, often with zeros unless `positive`."""
    least = 1 if positive else 0
    masses = draw(st.lists(st.integers(least, 9), min_size=n, max_size=n))
    if not any(masses):
        masses[draw(st.integers(0, n - 1))] = 1
    vector = torch.tensor(masses, dtype=torch.float64)
    return vector / vector.sum()


@st.composite
def positive_matrices(
    draw: st.DrawFn, *, min_states: int = 1, max_states: int = 8
) -> Tensor:
    """A transition matrix without zeros: irreducible and aperiodic."""
    n = draw(st.integers(min_states, max_states))
    return torch.stack([draw(distributions(n, positive=True)) for _ in range(n)])


@st.composite
def sparse_matrices(
    draw: st.DrawFn, *, min_states: int = 1, max_states: int = 8
) -> Tensor:
    """A transition matrix with zeros anywhere; may be reducible or periodic."""
    n = draw(st.integers(min_states, max_states))
    return torch.stack([draw(distributions(n)) for _ in range(n)])


@st.composite
def reducible_matrices(draw: st.DrawFn, *, max_states: int = 8) -> Tensor:
    """Two groups of states of which the first is never left; randomly renamed."""
    closed = draw(positive_matrices(max_states=max_states - 1))
    inner, n = len(closed), draw(st.integers(len(closed) + 1, max_states))
    matrix = torch.zeros(n, n, dtype=torch.float64)
    matrix[:inner, :inner] = closed
    for i in range(inner, n):
        matrix[i] = draw(distributions(n))
    order = torch.tensor(draw(st.permutations(range(n))))
    return matrix[order][:, order]


@st.composite
def periodic_matrices(draw: st.DrawFn, *, max_states: int = 8) -> Tensor:
    """Irreducible, of a period between 2 and n; randomly renamed.

    States are dealt into groups that are visited in turn, with positive probabilities
    from each group to the next.
    """
    n = draw(st.integers(2, max_states))
    period = draw(st.integers(2, n))
    matrix = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        ahead = [j for j in range(n) if j % period == (i + 1) % period]
        matrix[i, ahead] = draw(distributions(len(ahead), positive=True))
    order = torch.tensor(draw(st.permutations(range(n))))
    return matrix[order][:, order]


def stochastic_matrices(*, max_states: int = 8) -> st.SearchStrategy[Tensor]:
    """Transition matrices of all kinds: positive, sparse, reducible, periodic."""
    return st.one_of(
        positive_matrices(max_states=max_states),
        sparse_matrices(max_states=max_states),
        reducible_matrices(max_states=max_states),
        periodic_matrices(max_states=max_states),
    )


@st.composite
def hard_matrices(
    draw: st.DrawFn, *, kinds: Sequence[str] = tuple(HARD), max_states: int = 8
) -> Tensor:
    """A transition matrix of one of the kinds of `attnchain.testing.hard`, float64."""
    build = HARD[draw(st.sampled_from(kinds))]
    seed = draw(st.integers(0, 2**16))
    states = draw(st.integers(2, max_states))
    return build(states, torch.Generator().manual_seed(seed))


@st.composite
def attention_inputs(
    draw: st.DrawFn,
    *,
    max_states: int = 6,
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64),
) -> AttentionInput:
    """Queries and keys with scores up to `MAX_SCORE`, masks, and causal or not.

    Args:
        draw: Given by hypothesis.
        max_states: Largest number of states; 1 and 2 occur.
        dtypes: Chosen among; half precisions are allowed.
    """
    n, d = draw(st.integers(1, max_states)), draw(st.integers(1, 4))
    dtype = draw(st.sampled_from(dtypes))
    largest = draw(st.sampled_from([1.0, 10.0, 100.0]))  # 100 * 100 * d / sqrt(d)
    limit = float(torch.tensor(largest * d**-0.25))
    numbers = hnp.arrays(
        "float32", (2, n, d), elements=st.floats(-limit, limit, width=32)
    )
    q, k = torch.from_numpy(draw(numbers)).to(dtype)
    mask = draw(st.one_of(st.none(), _masks(n)))
    return AttentionInput(q, k, mask, draw(st.booleans()))


@st.composite
def _masks(draw: st.DrawFn, n: int) -> Tensor:
    """Boolean or additive, `(n, n)` or `(1, n)`; a state always sees itself."""
    rows = draw(st.sampled_from([1, n]))
    seen = torch.from_numpy(draw(hnp.arrays("bool", (rows, n))))
    seen = torch.ones_like(seen) if rows == 1 else seen | torch.eye(n, dtype=torch.bool)
    if draw(st.booleans()):
        return seen
    bias = draw(hnp.arrays("float32", (rows, n), elements=st.floats(-8, 8, width=32)))
    return torch.from_numpy(bias).masked_fill(~seen, -torch.inf)
