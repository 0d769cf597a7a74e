"""The mean-zero part of a chain as one small matrix, for factorisations."""

# pyright: reportUnknownMemberType=false

import math
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from attnchain.operators import AbstractTransition, Side


@dataclass(frozen=True, eq=False)
class MeanZero:
    r"""P between vectors that sum to zero, in an orthonormal basis of n - 1 of them.

    The basis is all but the first column of the reflection $1 - 2 u u^\top$ that takes
    the constant vector to the first axis.

    Attributes:
        projected: The matrix, (n - 1, n - 1), float64.
        mirror: u, (n,).
    """

    projected: np.ndarray
    mirror: Tensor

    def lifted(self, rows: np.ndarray) -> Tensor:
        """Vectors of the basis, one a row, as vectors over the n states."""
        states = self.mirror.new_zeros(len(rows), len(self.mirror))
        states[:, 1:] = torch.from_numpy(np.ascontiguousarray(rows)).to(states)
        return states - 2 * torch.outer(states @ self.mirror, self.mirror)


def factorised(chain: AbstractTransition, side: Side) -> MeanZero:
    """P in that basis where `side` is "pull", its transpose where it is "push"."""
    n = chain.n_states
    matrix = chain.to(torch.float64).to_dense()
    matrix = matrix if side == "pull" else matrix.mT
    mirror = matrix.new_full((n,), 1 / math.sqrt(n))
    mirror[0] += 1
    length = cast("Tensor", mirror.norm())
    mirror = mirror / length
    matrix = matrix - 2 * torch.outer(mirror, mirror @ matrix)
    matrix = matrix - 2 * torch.outer(matrix @ mirror, mirror)
    return MeanZero(matrix[1:, 1:].cpu().numpy(), mirror)
