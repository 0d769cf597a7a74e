"""TokenCut: one object by a normalised cut of the patches' features."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attnchain.errors import ArgumentError
from attnchain.maps import regions_at
from attnchain.methods.ncut import WEAK_EDGE, normalised_cut


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

    Raises:
        ArgumentError: The threshold joins all patches, or none.

    Sources:
        Wang et al., arXiv 2202.11539; its released code for the choice of the side.
    """
    vector = normalised_cut(strong_edges(cosines, threshold))
    above = vector > vector.mean()
    seed = int(vector.abs().argmax())
    side = (above if above[seed] else ~above).view(rows, -1)
    return regions_at(side, [divmod(seed, side.shape[1])]).flatten()


def strong_edges(
    cosines: Float[Tensor, "n n"], threshold: float | None
) -> Float[Tensor, "n n"]:
    """Edges of weight 1 where the cosine exceeds a threshold, 1e-5 elsewhere.

    Args:
        cosines: What `similarity` returned.
        threshold: 0.2 in TokenCut; None takes the median of the cosines.

    Raises:
        ArgumentError: All pairs of patches are on one side of the threshold: then all
            cuts cost the same, and the eigenvector is any vector.
    """
    level = float(cosines.median()) if threshold is None else threshold
    joined = cosines > level
    pairs = len(cosines) * (len(cosines) - 1)
    if int(joined.sum() - joined.diagonal().sum()) in {0, pairs}:
        raise ArgumentError(
            f"the threshold {level:g} must lie between the cosines of different "
            f"patches, but all lie on one side of it, {float(cosines.min()):g} to "
            f"{float(cosines.max()):g}; choose another, or None for their median"
        )
    return torch.where(joined, 1.0, WEAK_EDGE)
