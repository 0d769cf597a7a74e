"""DiffCut: segments by normalised cuts, repeated while they are cheap."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attnchain.maps import unit_range
from attnchain.methods.ncut import WEAK_EDGE, normalised_cut


def recursive_cut(
    cosines: Float[Tensor, "n n"],
    *,
    exponent: float = 10.0,
    most_cost: float = 0.5,
    fewest: int = 4,
) -> Int[Tensor, " n"]:
    """Segments by normalised cuts, repeated while the cost of a cut is low.

    Edges are the cosines, scaled to [0, 1], to a power. Each part is halved at the
    threshold of least cost among 16 quantiles of the eigenvector.

    Args:
        cosines: What `similarity` returned.
        exponent: The power; 10 in DiffCut.
        most_cost: Largest cost of a cut; 0.5 in DiffCut.
        fewest: Smallest number of patches in a part.

    Returns:
        Number of the segment of each patch.

    Sources:
        Couairon et al., DiffCut, arXiv 2406.02842: the same cut on the features of a
        diffusion model; its mask refinement is left out.
    """
    edges = unit_range(cosines).clamp_min(WEAK_EDGE) ** exponent
    labels = torch.zeros(len(cosines), dtype=torch.long)
    waiting = [torch.arange(len(cosines))]
    while waiting:
        part = waiting.pop()
        if len(part) < 2 * fewest:
            continue
        side, cost = cheapest_side(edges[part][:, part], fewest)
        if cost < most_cost:
            labels[part[side]] = labels.max() + 1
            waiting += [part[side], part[~side]]
    return labels


def cheapest_side(
    edges: Float[Tensor, "n n"], fewest: int
) -> tuple[Bool[Tensor, " n"], float]:
    """One side of the best cut along the eigenvector, and its normalised cost.

    The cost is cut(A, B) / vol(A) + cut(A, B) / vol(B).
    """
    vector = normalised_cut(edges + WEAK_EDGE**2)
    volume = edges.sum(1)
    best, side = float("inf"), torch.zeros_like(vector, dtype=torch.bool)
    for level in vector.quantile(torch.linspace(0.03, 0.97, 16)):
        above = vector > level
        if not fewest <= int(above.sum()) <= len(vector) - fewest:
            continue
        crossing = edges[above][:, ~above].sum()
        cost = float(crossing / volume[above].sum() + crossing / volume[~above].sum())
        if cost < best:
            best, side = cost, above
    return side, best
