"""Cuts of a graph of patches with similar features: the baselines of other papers."""

from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from attnchain.maps import unit_range

WEAK_EDGE: Final = 1e-5


def similarity(features: Float[Tensor, "n width"]) -> Float[Tensor, "n n"]:
    """Cosines between the features of all patches."""
    unit = normalize(features, dim=-1)
    return unit @ unit.T


def strong_edges(
    cosines: Float[Tensor, "n n"], threshold: float | None
) -> Float[Tensor, "n n"]:
    """Edges of weight 1 where the cosine exceeds a threshold, 1e-5 elsewhere.

    Args:
        cosines: What `similarity` returned.
        threshold: 0.2 in TokenCut; None takes the median of the cosines.
    """
    level = float(cosines.median()) if threshold is None else threshold
    return torch.where(cosines > level, 1.0, WEAK_EDGE)


def normalised_cut(edges: Float[Tensor, "n n"]) -> Float[Tensor, " n"]:
    r"""Second smallest solution of $(D - W) y = \lambda D y$.

    It is $D^{-1/2}$ times the second leading eigenvector of
    $D^{-1/2} W D^{-1/2}$; the sign is arbitrary.

    Args:
        edges: Symmetric weights W > 0.

    Returns:
        y, of unit length before the division by $D^{1/2}$.

    Sources:
        Shi and Malik, Normalized cuts and image segmentation, 2000.

    Example:
        >>> import torch
        >>> pairs = torch.tensor([[1, 1, 0.01], [1, 1, 0.01], [0.01, 0.01, 1]])
        >>> y = normalised_cut(pairs)
        >>> (y.sign() * y[2].sign()).tolist()
        [-1.0, -1.0, 1.0]
    """
    from scipy.sparse.linalg import eigsh

    weights = edges.double().numpy()
    root = np.sqrt(weights.sum(1))
    matrix = weights / root[:, None] / root[None]
    if len(matrix) < 5:
        vector = np.linalg.eigh(matrix)[1][:, -2]
    else:
        start = np.random.default_rng(0).random(len(matrix))
        values, vectors = eigsh(matrix, k=2, which="LA", v0=start)
        vector = vectors[:, values.argmin()]
    return torch.from_numpy(np.ascontiguousarray(vector / root)).float()


def token_cut(
    cosines: Float[Tensor, "n n"], *, rows: int, threshold: float | None = 0.2
) -> Bool[Tensor, " n"]:
    """TokenCut's object: a normalised cut, halved at its mean, one component.

    The seed is the patch of largest absolute value in the eigenvector; its side is
    the object, of which the connected region around the seed is kept.

    Args:
        cosines: What `similarity` returned.
        rows: Rows of patches.
        threshold: Cosine above which two patches are joined.

    Returns:
        The patches of the object.

    Sources:
        Wang et al., arXiv 2202.11539; its released code for the choice of the side.
    """
    from scipy import ndimage

    vector = normalised_cut(strong_edges(cosines, threshold))
    above = vector > vector.mean()
    seed = int(vector.abs().argmax())
    side = above if above[seed] else ~above
    labels = ndimage.label(side.view(rows, -1).numpy())[0].ravel()  # pyright: ignore
    return torch.from_numpy(labels == labels[seed])


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


def k_means(features: Float[Tensor, "n width"], count: int) -> Int[Tensor, " n"]:
    """Clusters of unit-length features, from one fixed random start.

    Args:
        features: One row for each patch.
        count: Number of clusters.

    Returns:
        Number of the cluster of each patch.
    """
    from scipy.cluster.vq import kmeans2

    unit = normalize(features, dim=-1).double().numpy()
    _, labels = kmeans2(  # the stubs know only the newest name of the seed
        unit,
        count,
        minit="++",
        seed=0,  # pyright: ignore[reportCallIssue]
        missing="raise",
    )
    return torch.from_numpy(labels).long()
