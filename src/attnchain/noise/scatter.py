"""Whether posteriors are scattered enough to tell the noise from the classes."""

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.checks import check_distribution, check_floating
from attnchain.errors import ShapeError

_EXTREME = 40
"""Posteriors a program begins with for each class at either end."""
_STARTS = 20
_NEAR = 0.9
"""A direction with an entry above this is that of a class."""
_ROUNDS = 50


def scattering(posteriors: Float[Tensor, "m c"], *, seed: int = 0) -> float:
    r"""How far posteriors are from sufficiently scattered: 1 where they are.

    $r = \max \|x\|_2$ over all x with $\mathbf 1^\top x = 1$ and $h^\top x \ge 0$ for
    every posterior h. Posteriors are sufficiently scattered, so that the smallest
    simplex around them is the only one, if and only if no x is longer than 1 and none
    but the unit vectors is as long. The longest x is sought by linear programs, each
    in the direction of the answer before, from several starts: a value above 1 proves
    that they are *not* scattered; 1 means that no such proof was found.

    Args:
        posteriors: Probabilities of the clean classes, one row for each example.
        seed: Of the random starts.

    Returns:
        r, at least 1, infinite where the posteriors leave a direction open.

    Raises:
        ShapeError: Not a matrix, or of one class only.
        NotStochasticError: A row is no distribution.

    Sources:
        Fu et al., Nonnegative matrix factorization for signal and data analytics,
        IEEE Signal Processing Magazine 2019; Li et al., arXiv 2102.02400.

    Example:
        >>> scattering(torch.eye(3))
        1.0
        >>> scattering(torch.full((5, 3), 1 / 3))
        inf
    """
    return survey(posteriors, seed=seed)[0]


def rivals(posteriors: Float[Tensor, "m c"], *, seed: int = 0) -> float:
    """Length of the longest direction found that is near no class; 0 without one.

    Sufficiently scattered posteriors leave no direction as long as 1 but the unit
    vectors of the classes. Posteriors that just touch all sides, such as a disc, leave
    others: `scattering` is 1, and yet more than one simplex fits.

    Args:
        posteriors: Probabilities of the clean classes, one row for each example.
        seed: Of the random starts.

    Example:
        >>> rivals(torch.eye(3))
        0.0
    """
    return survey(posteriors, seed=seed)[1]


def survey(posteriors: Float[Tensor, "m c"], *, seed: int = 0) -> tuple[float, float]:
    """`scattering` and `rivals`, from the same linear programs."""
    ends = _ends(posteriors, seed)
    far = [end for end in ends if end is None or end.max() < _NEAR]
    return max(1.0, *map(_length, ends)), max([0.0, *map(_length, far)])


def _length(end: Tensor | None) -> float:
    return float("inf") if end is None else round(float(end.norm()), 9)


def _ends(posteriors: Tensor, seed: int) -> list[Tensor | None]:
    """Where the programs end from all starts; None where there is no end."""
    check_floating(posteriors, "posteriors")
    if posteriors.ndim != 2 or posteriors.shape[1] < 2:
        message = (
            f"posteriors must be (examples, classes) with two classes or more, but "
            f"have shape {tuple(posteriors.shape)}"
        )
        raise ShapeError(message)
    check_distribution(posteriors, posteriors.shape[1], "posteriors")
    rows = posteriors.detach().double().cpu()
    generator = torch.Generator().manual_seed(seed)
    n = rows.shape[1]
    starts = torch.randn(_STARTS, n, generator=generator, dtype=torch.float64)
    active = _extreme(rows)
    return [_longest(rows, active, start) for start in starts]


def _extreme(rows: Tensor) -> Tensor:
    """Which posteriors are nearest to each corner and to each facet."""
    count = min(_EXTREME, len(rows))
    ends = torch.cat([rows.topk(count, 0).indices, (-rows).topk(count, 0).indices])
    return torch.zeros(len(rows), dtype=torch.bool).index_fill(0, ends.flatten(), True)


def _longest(rows: Tensor, active: Tensor, direction: Tensor) -> Tensor | None:
    """The x that linear programs climb to, each along the last x."""
    length = 0.0
    for _ in range(_ROUNDS):
        found = _furthest(rows, active, direction)
        if found is None:
            return None
        if float(found.norm()) <= length + 1e-9:
            break
        direction, length = found, float(found.norm())
    return direction


def _furthest(rows: Tensor, active: Tensor, direction: Tensor) -> Tensor | None:
    """The feasible x furthest along a direction; None where there is no end.

    `active` marks the posteriors a program has; those its answer violates join them.
    """
    from scipy.optimize import linprog

    while True:
        given = rows[active].numpy()
        found = linprog(
            -direction.numpy(),
            A_ub=-given,
            b_ub=[0.0] * len(given),
            A_eq=[[1.0] * rows.shape[1]],
            b_eq=[1.0],
            bounds=(None, None),
        )
        everything = bool(active.all())
        if found.status != 0:
            if everything:
                return None
            active |= True
            continue
        x = torch.from_numpy(found.x)
        violated = rows @ x < -1e-9
        if everything or not bool((violated & ~active).any()):
            return x
        active |= violated
