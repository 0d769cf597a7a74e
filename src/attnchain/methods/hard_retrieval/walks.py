"""Bounces estimated by walks: one key drawn for each query."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attnchain.checks import (
    check_count,
    check_distribution,
    check_floating,
    check_whole,
)
from attnchain.errors import ShapeError
from attnchain.methods.hard_retrieval.state_rows import one_chain, row_blocks
from attnchain.operators import AbstractTransition


@dataclass(frozen=True, eq=False)
class SampledPaths:
    r"""Independent walks of a chain, and what they estimate.

    Errors are those of a mean of independent draws: they fall as paths^-1/2.

    Attributes:
        states: Where each walk is after 0, 1, ... bounces.
        n_states: Number of states of the chain.
    """

    states: Int[Tensor, "paths bounces"]
    n_states: int

    def distribution(
        self, bounce: int = -1
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        r"""Where walks are after a number of bounces: an estimate of $v P^t$.

        Args:
            bounce: t, 0 for the start; the last by default.

        Returns:
            The share of walks in each state, and its standard error.

        Raises:
            ArgumentError: The walks are not as long.
        """
        paths, length = self.states.shape
        high = length - 1
        check_count(bounce, "bounce", low=-length, high=high, meaning="drawn bounces")
        counts = self.states[:, bounce].bincount(minlength=self.n_states)
        shares = counts.double() / paths
        return shares, (shares * (1 - shares) / paths).sqrt()

    def expectation(
        self, observable: Float[Tensor, " n"]
    ) -> tuple[Float[Tensor, " bounces"], Float[Tensor, " bounces"]]:
        r"""Mean of an observable after 0, 1, ... bounces: estimates of $v P^t f$.

        Args:
            observable: f, a value for each state.

        Returns:
            The means, and their standard errors.

        Raises:
            ShapeError: f is over other states, or there is one path only, which has no
                standard error.
        """
        check_floating(observable, "observable")
        if observable.shape != (self.n_states,) or len(self.states) < 2:
            message = (
                f"observable must be ({self.n_states},) and there must be two paths or "
                f"more, but have {tuple(observable.shape)} and {len(self.states)} paths"
            )
            raise ShapeError(message)
        values = observable.detach().double().cpu()[self.states]
        return values.mean(0), values.std(0) / len(values) ** 0.5


def sampled_paths(
    chain: Any,
    paths: int,
    bounces: int,
    *,
    start: Float[Tensor, " n"] | None = None,
    generator: torch.Generator | None = None,
) -> SampledPaths:
    r"""Walks that draw one key for each query: $x_{t+1} \sim P_{x_t \cdot}$.

    Only rows of visited states are needed. For attention over many tokens, t bounces
    of k walks cost at most O(t k n d), where one exact product costs O(n n d).

    Args:
        chain: One chain, or its matrix; attention is never stored.
        paths: Number of walks.
        bounces: Steps of each.
        start: Distribution of the first states; all alike by default.
        generator: Source of randomness; torch's own by default.

    Returns:
        The walks.

    Raises:
        ArgumentError: A number below 1, or a chain with padding.
        ShapeError: A batch, or a start over other states.
        NotStochasticError: The start is no distribution, or a visited row is masked.

    Example:
        >>> cycle = torch.eye(3).roll(1, 1)
        >>> start = torch.tensor([1.0, 0.0, 0.0])
        >>> sampled_paths(cycle, 2, 4, start=start).states
        tensor([[0, 1, 2, 0, 1],
                [0, 1, 2, 0, 1]])
    """
    check_whole(paths, "paths")
    check_whole(bounces, "bounces")
    base = one_chain(chain)
    n = base.n_states
    if start is None:
        start = torch.full((n,), 1 / n, dtype=torch.float64)
    check_distribution(start, n, "start")
    if start.ndim != 1:
        raise ShapeError(f"start must be ({n},), but is {tuple(start.shape)}")
    levels = torch.rand(
        bounces + 1, paths, dtype=torch.float64, generator=generator
    ).to(base.device)
    rows = start.detach().double()[None].to(base.device)
    walks = [_drawn(rows, torch.zeros_like(levels[0], dtype=torch.int64), levels[0])]
    for level in levels[1:]:
        walks.append(_stepped(base, walks[-1], level))
    return SampledPaths(torch.stack(walks, 1).cpu(), n)


def _stepped(chain: AbstractTransition, states: Tensor, level: Tensor) -> Tensor:
    """Where each walk goes next; the row of a state is formed once for all in it."""
    visited, place = states.unique(return_inverse=True)
    following = torch.empty_like(states)
    for part, rows in row_blocks(chain, visited):
        own = (place >= part.start) & (place < part.stop)
        following[own] = _drawn(rows, place[own] - part.start, level[own])
    return following


def _drawn(rows: Tensor, place: Tensor, level: Tensor) -> Tensor:
    """A state from one row for each walk, by its distribution function.

    The functions of all rows stand one above the other, so that one search serves all.
    """
    reached = rows.cumsum(-1)
    reached = reached / reached[:, -1:]
    offset = torch.arange(len(rows), dtype=rows.dtype, device=rows.device)
    stacked = (reached + offset[:, None]).flatten()
    below = torch.nextafter((place + 1).to(level), torch.zeros_like(level))
    sought = torch.minimum(place + level, below)
    return torch.searchsorted(stacked, sought, right=True) - place * rows.shape[1]
