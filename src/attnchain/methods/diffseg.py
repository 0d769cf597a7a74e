"""DiffSeg: regions by merging attention maps that are alike (arXiv 2308.12469)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.capturing import TokenGrid
from attnchain.checks import check_positive, check_whole
from attnchain.errors import ArgumentError
from attnchain.maps import enlarge, largest
from attnchain.operators import AbstractTransition
from attnchain.vision import PictureAttention, PictureSegmentation, figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Anchors = Literal["token_rank", "grid"]


@dataclass(frozen=True, eq=False, kw_only=True)
class RegionSegmentation(PictureSegmentation):
    """A picture cut into regions that attend alike, numbered by decreasing area.

    `maps` are the proposals at picture size; the largest one has the pixel.

    Attributes:
        proposals: Mean attention of each region's members, `(regions, n)`; rows are
            distributions over the patches.
        anchors: Patches the merging started from.
    """

    kind: ClassVar[str] = "regions"
    title: ClassVar[str] = "regions that attend alike"

    proposals: Float[Tensor, "regions n"]
    anchors: tuple[int, ...]

    @property
    def maps(self) -> Float[Tensor, "regions height width"]:
        return enlarge(
            self.attention.grid.to_map(self.proposals), **self.attention.size
        )

    def panels(self) -> "list[Callable[[Axes], object]]":
        places = [self.attention.patch_centre(patch) for patch in self.anchors]
        title = f"picture and {len(places)} anchors"
        return [figures.picture(self.picture, title=title, on=places)]

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "anchors": self.anchors}


def segment_regions(
    attention: PictureAttention,
    *,
    anchors: Anchors = "token_rank",
    count: int = 64,
    threshold: float = 0.3,
    rounds: int = 3,
) -> RegionSegmentation:
    """Cuts a picture into regions by merging attention maps from some anchors.

    A pixel belongs to the merged map that is largest there.

    Args:
        attention: What `read_attention` returned.
        anchors: "token_rank", patches where attention arrives, or "grid", regular
            ones as in DiffSeg.
        count: Most anchors to start from.
        threshold: Largest symmetric divergence of maps that are merged, in nats.
        rounds: Rounds of merging.

    Returns:
        `RegionSegmentation`; empty ones are dropped.

    Raises:
        ArgumentError: An unknown kind of anchors, or no anchor, no round, or a
            threshold that is not positive.

    Sources:
        Tian et al., Diffuse, Attend, and Segment (DiffSeg), arXiv 2308.12469; Erel et
        al., arXiv 2507.17657, take its anchors from TokenRank, how is not published:
        see `rank_anchors` for ours.
    """
    if anchors not in ("token_rank", "grid"):
        message = f"anchors must be 'token_rank' or 'grid', but is {anchors!r}"
        raise ArgumentError(message)
    place = rank_anchors if anchors == "token_rank" else grid_anchors
    chosen = place(attention, count)
    proposals = merge_maps(attention.chain, chosen, threshold=threshold, rounds=rounds)
    found = largest(attention.grid.to_map(proposals), **attention.size)
    areas = torch.bincount(found.flatten(), minlength=len(proposals))
    order = areas.argsort(descending=True, stable=True)[: int((areas > 0).sum())]
    return RegionSegmentation(
        names=tuple(f"region {i}" for i in range(len(order))),
        labels=largest(attention.grid.to_map(proposals[order]), **attention.size),
        attention=attention,
        proposals=proposals[order],
        anchors=chosen,
    )


def grid_anchors(attention: PictureAttention, count: int) -> tuple[int, ...]:
    """At most `count` patches, in rows and columns at equal distances.

    Raises:
        ArgumentError: The count is below one.
    """
    grid = attention.grid
    check_whole(count, "count")
    down = round((count * grid.rows / grid.columns) ** 0.5)
    down = min(max(1, down), grid.rows, count)
    across = min(count // down, grid.columns)
    rows = [(2 * i + 1) * grid.rows // (2 * down) for i in range(down)]
    columns = [(2 * i + 1) * grid.columns // (2 * across) for i in range(across)]
    return tuple(row * grid.columns + column for row in rows for column in columns)


def rank_anchors(attention: PictureAttention, count: int) -> tuple[int, ...]:
    """`count` patches of large incoming TokenRank, kept apart; all, if there are less.

    Patches are taken by decreasing rank, unless a patch nearer than some spacing was
    taken before. The spacing is the largest, from that of a regular grid down, at
    which so many find a place.

    Raises:
        ArgumentError: The count is below one.
    """
    grid = attention.grid
    check_whole(count, "count")
    count = min(count, grid.n_patches)
    order = attention.rank.top(grid.n_patches).tolist()
    spacing = max(1, round((grid.n_patches / count) ** 0.5))
    while len(taken := _apart(order, grid, spacing)) < count:
        spacing -= 1
    return taken[:count]


def _apart(order: list[int], grid: TokenGrid, spacing: int) -> tuple[int, ...]:
    """Patches in that order, none nearer than the spacing to one before it."""
    free = torch.ones(grid.rows, grid.columns, dtype=torch.bool)
    taken: list[int] = []
    for patch in order:
        row, column = divmod(patch, grid.columns)
        if free[row, column]:
            taken.append(patch)
            down = slice(max(0, row - spacing + 1), row + spacing)
            free[down, max(0, column - spacing + 1) : column + spacing] = False
    return tuple(taken)


def merge_maps(
    chain: AbstractTransition,
    anchors: tuple[int, ...],
    *,
    threshold: float,
    rounds: int = 3,
) -> Float[Tensor, "regions n"]:
    r"""Merges the rows of a chain that are alike, starting from some of them.

    Distance is $\frac12 (\mathrm{KL}(a \| b) + \mathrm{KL}(b \| a))$. In the first
    round each anchor's map becomes the mean of all rows nearer than the threshold; in
    every further one the maps left are gone through in order, and each is merged with
    all others near it.

    Args:
        chain: One chain; its rows are the maps.
        anchors: States to start from.
        threshold: Largest distance of maps that are merged, in nats.
        rounds: Rounds of merging, at least 1.

    Returns:
        The merged maps; distributions.

    Raises:
        ArgumentError: A batch, no anchor, no round, or a threshold that is not
            positive.

    Cost:
        O(anchors n^2) operations.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> near, far = [0.5, 0.4, 0.1], [0.05, 0.05, 0.9]
        >>> chain = as_transition(torch.tensor([near, [0.4, 0.5, 0.1], far]))
        >>> merge_maps(chain, (0, 1, 2), threshold=0.5)
        tensor([[0.4500, 0.4500, 0.1000],
                [0.0500, 0.0500, 0.9000]])
    """
    check_whole(rounds, "rounds")
    check_positive(threshold, "threshold")
    if chain.batch_shape or not anchors:
        message = (
            f"merge_maps takes one chain and at least one anchor, but got {chain!r} "
            f"and {len(anchors)} anchors"
        )
        raise ArgumentError(message)
    rows = chain.to_dense()
    near = (divergence(rows[list(anchors)], rows) <= threshold).to(rows)
    near[range(len(anchors)), list(anchors)] = 1
    maps = near @ rows / near.sum(-1, keepdim=True)
    for _ in range(rounds - 1):
        maps = _merged_in_turn(maps, threshold)
    return maps


def _merged_in_turn(maps: Tensor, threshold: float) -> Float[Tensor, "regions n"]:
    """Each map merged with all near it, unless an earlier one took it."""
    near = (divergence(maps, maps) <= threshold).fill_diagonal_(True)
    matched = torch.zeros(len(maps), dtype=torch.bool, device=maps.device)
    merged = []
    for i in range(len(maps)):
        if not matched[i]:
            merged.append(maps[near[i]].mean(0))
            matched |= near[i]
    return torch.stack(merged)


def divergence(
    first: Float[Tensor, "a n"], second: Float[Tensor, "b n"]
) -> Float[Tensor, "a b"]:
    """Half the sum of both Kullback-Leibler divergences, for all pairs, in nats."""
    tiny = torch.finfo(first.dtype).tiny
    log_first, log_second = first.clamp_min(tiny).log(), second.clamp_min(tiny).log()
    own = (first * log_first).sum(-1)[:, None] + (second * log_second).sum(-1)
    return (own - first @ log_second.mT - log_first @ second.mT).clamp_min(0) / 2
