"""Objects of one kind: parts of a set between which nearby patches seldom step."""

from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attnchain.capturing import TokenGrid
from attnchain.markov import spectrum
from attnchain.operators import AbstractTransition, DenseTransition, Restricted

_REACH: Final = 2.0
"""Standard deviation of a step in the picture, in patches."""
_NARROW: Final = 0.7
"""Cost of a neck, see `narrowest_neck`: a square has 2, a strip of one to five 0.7."""
_FEWEST: Final = 8
"""Patches of the smallest part."""


def standing_apart(
    walk: AbstractTransition, members: Bool[Tensor, " n"], grid: TokenGrid
) -> Bool[Tensor, "parts n"]:
    r"""Parts of some patches that hold apart.

    $W_{ij} = S_{ij} e^{-d_{ij}^2 / 2 \sigma^2}$, a step of the walk S between patches
    at a distance d of few patches. What touches, also by corners, is halved at its
    narrowest neck, and the halves again, while necks are narrow for the size.

    Args:
        walk: S, symmetric: the walk out and back.
        members: The patches in question.
        grid: Where the patches lie.

    Returns:
        Disjoint parts of at least three patches; what is smaller lies in none.
    """
    from scipy import ndimage

    plane = members.view(grid.rows, grid.columns).cpu().numpy()
    touching, count = ndimage.label(plane, np.ones((3, 3)))  # pyright: ignore
    regions = torch.from_numpy(touching).flatten()
    waiting = [(regions == i).nonzero()[:, 0] for i in range(1, count + 1)]
    found: list[Tensor] = []
    while waiting:
        part = waiting.pop()
        if len(part) < 2 * _FEWEST:
            found += [part] if len(part) > 2 else []
            continue
        side, cost = narrowest_neck(nearby_steps(walk, part, grid))
        if cost < _NARROW:
            waiting += [part[side], part[~side]]
        else:
            found.append(part)
    parts = members.new_zeros(len(found), len(members))
    for row, part in zip(parts, found, strict=True):
        row[part] = True
    return parts


def nearby_steps(
    walk: AbstractTransition, places: Int[Tensor, " m"], grid: TokenGrid
) -> Float[Tensor, "m m"]:
    """How often the walk steps between some patches that lie near each other."""
    kept = Restricted(walk, places)
    steps = kept.to_dense().double() * kept.row_mass.double()[:, None]
    spots = torch.stack([places // grid.columns, places % grid.columns], 1).double()
    near = torch.cdist(spots, spots).div_(_REACH).square_().mul_(-0.5).exp_()
    return (steps + steps.T) / 2 * near.to(steps)


def narrowest_neck(
    steps: Float[Tensor, "m m"],
) -> tuple[Bool[Tensor, " m"], float]:
    r"""Where a set of patches is cut most cheaply, and what that costs for its size.

    The normalised cut along the slowest function of the walk,
    $\bigl(\frac{w(A, B)}{w(A, A \cup B)} + \frac{w(A, B)}{w(B, A \cup B)}\bigr)
    \sqrt m / \sigma$: since what crosses grows with the width of a neck and w(A) with
    the area, a region of the same form costs the same at any size.

    Args:
        steps: Symmetric weights w > 0 of steps within reach.

    Returns:
        The patches of one side A, and the cost.

    Sources:
        Shi and Malik, Normalized cuts and image segmentation, 2000.
    """
    m, volume = len(steps), steps.sum(1)
    slow = spectrum(DenseTransition(steps / volume[:, None]), 2).basis[:, 1]
    order = slow.argsort(stable=True)
    ordered = steps[order][:, order]
    inside = (2 * ordered.tril(-1).sum(1) + ordered.diagonal()).cumsum(0)
    held = volume[order].cumsum(0)
    cut = slice(_FEWEST - 1, m - _FEWEST)
    crossing, one = (held - inside)[cut], held[cut]
    costs = crossing / one + crossing / (held[-1] - one)
    best = int(costs.argmin())
    side = torch.zeros(m, dtype=torch.bool, device=steps.device)
    side[order[: best + _FEWEST]] = True
    return side, float(costs[best]) * m**0.5 / _REACH
