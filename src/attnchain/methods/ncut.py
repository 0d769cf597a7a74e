"""The normalised cut of Shi and Malik: a graph halved by an eigenvector."""

from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

WEAK_EDGE: Final = 1e-5


def similarity(features: Float[Tensor, "n width"]) -> Float[Tensor, "n n"]:
    """Cosines between the features of all patches.

    Args:
        features: One row for each patch.
    """
    unit = normalize(features, dim=-1)
    return unit @ unit.T


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
