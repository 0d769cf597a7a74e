"""A small chain of landmarks that stands in for a large one, as preview and start."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attnchain.errors import ShapeError
from attnchain.operators import tiles
from attnchain.operators.attention import AttentionTransition
from attnchain.operators.base import kept_states
from attnchain.operators.dense import DenseTransition


@dataclass(frozen=True, eq=False)
class Lumped:
    r"""States grouped around landmarks, each group moving as its landmark does.

    $C_{ab} = \sum_{j \in \text{group } b} P_{l_a j}$ with the exact rows of the
    landmarks: a true chain, at O(m n) cost. It is exact where the states of a group
    share their row, and an approximation of unknown error elsewhere.

    Attributes:
        coarse: The chain of the m groups.
        groups: Group of every state, `(n,)`.
        scores: Scores of the landmarks' rows.
        sums: Their maxima and sums.
    """

    coarse: DenseTransition
    groups: Int[Tensor, " n"]
    scores: tiles.Scores
    sums: tiles.Rows

    def lump(self, distribution: Float[Tensor, " n"]) -> Float[Tensor, " m"]:
        """Mass of every group."""
        coarse = distribution.new_zeros(self.coarse.n_states)
        return coarse.index_add(0, self.groups, distribution)

    def prolong(self, distribution: Float[Tensor, " m"]) -> Float[Tensor, " n"]:
        """Where the landmarks step to, drawn from a distribution over groups."""
        rows = distribution.to(self.scores.key.dtype)[None]
        return tiles.push(self.scores, self.sums, rows)[0]


def lumped(chain: AttentionTransition, landmarks: Tensor) -> Lumped:
    """Groups the states of a chain by their nearest landmark key.

    Args:
        chain: One chain over attention, not causal.
        landmarks: Indices or mask of the states that stand for the others.

    Returns:
        The chain of the groups, and the way back to all states.

    Raises:
        ShapeError: A batch, a causal chain, or landmarks that are no states.

    Example:
        >>> import torch
        >>> key = torch.tensor([[1.0], [1.0], [-1.0]])
        >>> small = lumped(AttentionTransition(key, key), torch.tensor([0, 2]))
        >>> small.groups
        tensor([0, 0, 1])
    """
    if chain.batch_shape or chain.causal:
        message = f"lumped takes one chain that is not causal, but got {chain!r}"
        raise ShapeError(message)
    chosen = kept_states(landmarks, chain.n_states).to(chain.device)
    (scores,) = chain.scores
    mask = scores.mask
    if mask is not None and len(mask) > 1:
        mask = mask[chosen]
    rows = tiles.Scores(scores.query[chosen], scores.key, mask, causal=False)
    sums = tiles.row_sums(rows)
    groups = _nearest(scores.key, chosen)
    coarse = scores.key.new_zeros(len(chosen), len(chosen))
    for own, columns in rows.tiles():
        tile = rows.tile(own, columns, sums.top).exp2_()
        coarse[own] = coarse[own].index_add(1, groups[columns], tile)
    coarse /= coarse.sum(-1, keepdim=True)
    return Lumped(DenseTransition(coarse), groups, rows, sums)


def farthest_points(
    features: Float[Tensor, "n d"], count: int
) -> Int[Tensor, " count"]:
    """Landmarks far from each other: each next one farthest from those chosen.

    Args:
        features: What distances are measured in, for example the keys of a head.
        count: Number of landmarks, 1..n.

    Returns:
        Distinct indices; the first lies farthest from the mean.

    Raises:
        ShapeError: The count is out of range.
    """
    n = len(features)
    if not 1 <= count <= n:
        raise ShapeError(f"count must lie in 1..{n}, but is {count!r}")
    distance = (features - features.mean(0)).norm(dim=-1)
    chosen = [int(distance.argmax())]
    distance = torch.full_like(distance, torch.inf)
    while len(chosen) < count:
        last = features[chosen[-1]]
        distance = torch.minimum(distance, (features - last).norm(dim=-1))
        distance[chosen] = -1
        chosen.append(int(distance.argmax()))
    return torch.tensor(chosen, device=features.device)


def _nearest(keys: Tensor, chosen: Tensor) -> Tensor:
    """Landmark of every state, a block of states at a time."""
    blocks = keys.split(tiles.COLUMNS)
    nearest = [torch.cdist(block, keys[chosen]).argmin(-1) for block in blocks]
    return torch.cat(nearest)
