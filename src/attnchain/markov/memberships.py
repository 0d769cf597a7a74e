"""Memberships in metastable sets from an invariant subspace (PCCA+)."""

# pyright: reportUnknownMemberType=false

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

_RARE = 0.1
"""States of less than this part of the median of pi shape no set if others can."""
_SLIGHT = 0.01
"""Part of an even share in the weights, so that no state weighs nothing; and of the
farthest distance that is none."""


@dataclass(frozen=True, eq=False)
class Memberships:
    """How much each state belongs to each of m sets.

    Attributes:
        soft: `(n, m)`, >= 0, rows sum to one.
        linear: The same before rare states were clipped: X A, `(n, m)`.
        corners: The state at the corner of each set, `(m,)`.
    """

    soft: Tensor
    linear: Tensor
    corners: Tensor


def crispness(soft: Float[Tensor, "n m"], pi: Float[Tensor, " n"]) -> Tensor:
    r"""How little m sets overlap, in (0, 1].

    $\frac 1 m \sum_k \langle \chi_k, \chi_k \rangle_\pi \, / \,
    \langle \chi_k, 1 \rangle_\pi$.

    Sources:
        Roeblitz and Weber, Adv. Data Anal. Classif. 7 (2013), section 3.
    """
    return (pi @ soft**2 / (pi @ soft)).mean()


def fuzzy_sets(basis: Float[Tensor, "n m"], pi: Float[Tensor, " n"]) -> Memberships:
    """Corners of the simplex the rows of X lie in, shifted until nothing is negative.

    A state that is hardly ever entered may lie outside the simplex of the others: it
    steps into one set more surely than that set keeps its own. Such rare states are
    corners only where no others span the subspace, and are clipped to the simplex.

    Args:
        basis: X, orthonormal columns, the first one constant.
        pi: The stationary distribution.
    """
    n, m = basis.shape
    if m == 1:
        everything = torch.ones_like(basis)
        return Memberships(everything, everything, pi.new_zeros(1, dtype=torch.int64))
    points = _evened(basis / basis[:, :1], (1 - _SLIGHT) * pi + _SLIGHT / n)
    counted = pi >= _RARE * pi.median()
    corners = _inner_simplex(points, counted)
    counted[corners] = True
    linear = cast("Tensor", points @ torch.linalg.inv(points[corners]))
    lowest = linear[counted].min(0).values
    linear = (linear - lowest) / (1 - lowest.sum())
    soft = linear.clamp_min(0)
    return Memberships(soft / soft.sum(1, keepdim=True), linear, corners)


def _evened(points: Tensor, weights: Tensor) -> Tensor:
    """The points in coordinates of mean square one under the weights, unrelated."""
    squares = points.T @ (weights[:, None] * points)
    root = cast("Tensor", torch.linalg.cholesky(squares))
    rows = cast("Tensor", torch.linalg.solve_triangular(root, points.T, upper=False))
    return rows.T


def _inner_simplex(points: Tensor, counted: Tensor) -> Tensor:
    """States at the corners: the farthest out, then farthest from those chosen."""
    corners = [_farthest(points, counted)]
    rest = points - points[corners[0]]
    for _ in range(points.shape[1] - 1):
        corners.append(_farthest(rest, counted))
        length = cast("Tensor", rest[corners[-1]].norm())
        direction = rest[corners[-1]] / length
        rest = rest - (rest @ direction)[:, None] * direction
    return torch.tensor(corners, device=points.device)


def _farthest(points: Tensor, counted: Tensor) -> int:
    """Among the states that count, unless they all lie near the origin."""
    distances = cast("Tensor", points.norm(dim=1))
    among = torch.where(counted, distances, 0.0)
    enough = among.max() >= _SLIGHT * distances.max()
    return int((among if enough else distances).argmax())
