"""Reducible chains as the smaller chains that hold their eigenvalues."""

# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from attnchain.operators import DenseTransition

_HOPS = 8
"""Bounces in which attention reaches everything, if it does at all."""


@dataclass(frozen=True, eq=False)
class Parts:
    """What a chain falls into; its eigenvalues are those of its parts.

    Attributes:
        closed: Number of classes that are never left; the 1 comes as often.
        alone: Probability to stay, of each class of one state that is left, (s,).
        chains: A chain for each larger class. One that can be left has a last state
            more where its leavers end, which adds nothing but the 1.
    """

    closed: int
    alone: Tensor
    chains: list[DenseTransition]


def parts(matrix: Tensor) -> Parts | None:
    """The parts of one stored chain, or None where it is irreducible.

    Args:
        matrix: `(n, n)`, rows sum to one.
    """
    if _connected(matrix):
        return None
    component, closed = strong_classes(matrix)
    if len(closed) == 1:
        return None
    sizes = component.bincount(minlength=len(closed))
    alone = (sizes == 1) & ~closed
    larger = cast("list[int]", torch.nonzero(sizes > 1)[:, 0].tolist())
    return Parts(
        int(closed.sum()),
        matrix.diagonal()[alone[component].to(matrix.device)],
        [_part(matrix, component == c, bool(closed[c])) for c in larger],
    )


def strong_classes(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The class of every state, (n,), and whether each class is never left.

    Args:
        matrix: `(n, n)`; states communicate where a path of entries > 0 leads from
            one to the other and back.
    """
    from scipy.sparse import csgraph, csr_array

    edges = cast("Any", csr_array((matrix > 0).cpu().numpy()))
    components = cast("Any", csgraph.connected_components)
    count, labels = components(edges, directed=True, connection="strong")
    source, target = edges.nonzero()
    closed = torch.ones(count, dtype=torch.bool)
    left = labels[source[labels[source] != labels[target]]]
    closed[torch.from_numpy(left).long()] = False
    return torch.from_numpy(labels).long(), closed


def _connected(matrix: Tensor) -> bool:
    """Whether all is seen to be connected within a few bounces of state 0."""
    if bool(matrix.min() > 0):
        return True
    for way in (matrix, matrix.mT):
        reached = matrix.new_zeros(len(matrix))
        reached[0] = 1
        for _ in range(_HOPS):
            reached = ((reached + reached @ way) > 0).to(matrix.dtype)
        if not bool(reached.all()):
            return False
    return True


def _part(matrix: Tensor, inside: Tensor, closed: bool) -> DenseTransition:
    states = torch.nonzero(inside)[:, 0].to(matrix.device)
    inner = matrix[states][:, states]
    if closed:
        return DenseTransition.trusted(inner)
    n = len(states)
    whole = matrix.new_zeros(n + 1, n + 1)
    whole[:n, :n] = inner
    whole[:n, n] = (1 - inner.sum(-1)).clamp_min(0)
    whole[n, n] = 1
    return DenseTransition.trusted(whole)
