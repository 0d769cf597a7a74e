"""A picture's metastable sets: patches among which attention stays."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attnchain.checks import check_count
from attnchain.maps import enlarge, largest, parts
from attnchain.markov import (
    MetastableSets,
    coarse_grained,
    metastable_levels,
    metastable_sets,
)
from attnchain.vision import figures
from attnchain.vision.picture_attention import PictureAttention
from attnchain.vision.segmentation import PictureSegmentation
from attnchain.vision.standing_apart import standing_apart

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_SETS = 24
"""More segments cannot be told apart by colour or in a legend."""
_MOST_CHOSEN = 8
_LEAST = 0.0025
"""Share of the picture of the smallest instance; less joins the one nearest to it."""
_KEPT = 0.2
"""Modulus of the eigenvalue of every slow mode, where the number is not given."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SetSegmentation(PictureSegmentation):
    """A picture cut into the metastable sets of its patches.

    `maps` are the memberships at picture size; the set of largest one has the pixel.

    Attributes:
        sets: Memberships, prevalence and retention of the sets in the attention chain.
    """

    kind: ClassVar[str] = "sets"
    title: ClassVar[str] = "metastable sets"

    sets: MetastableSets

    @property
    def maps(self) -> Float[Tensor, "maps height width"]:
        memberships = self.attention.grid.to_map(self.sets.memberships.T)
        return enlarge(memberships, **self.attention.size)

    @property
    def start(self) -> int:
        """The patch of largest TokenRank, from which bounces are drawn."""
        return int(self.attention.rank.top(1))

    @property
    def legend(self) -> list[str]:
        """Of each set its stationary mass, and how much of it stays for a bounce."""
        masses, stays = self.sets.prevalence.tolist(), self.sets.retention.tolist()
        return [
            f"{name}: {mass:.0%} of walkers, {stay:.0%} stay"
            for name, mass, stay in zip(self.names, masses, stays, strict=True)
        ]

    def instances(self, name: str) -> Bool[Tensor, "instances height width"]:
        mask, memberships = self.mask(name), self.sets.memberships
        number = self.names.index(name)
        members = memberships.argmax(1) == number
        grid, walk = self.attention.grid, self.attention.out_and_back
        apart = standing_apart(walk, members, grid) * memberships[:, number]
        labels = mask.long()
        if len(apart) > 1:
            labels *= 1 + largest(grid.to_map(apart), **self.attention.size)
        return parts(labels, least=_LEAST * mask.numel())

    def panels(self) -> "list[Callable[[Axes], object]]":
        return [
            *figures.walk(self.attention, self.start),
            figures.rank(self.attention),
        ]

    def findings(self) -> list[str]:
        return self.legend

    def facts(self) -> dict[str, Any]:
        sets = {
            "prevalence": self.sets.prevalence.tolist(),
            "retention": self.sets.retention.tolist(),
            "coarse": self.sets.coarse.tolist(),
            "eigenvalue_moduli": self.sets.eigenvalues.abs().tolist(),
        }
        return {**super().facts(), "start_patch": self.start, "sets": sets}


def segment_sets(
    attention: PictureAttention, sets: int | None = None
) -> SetSegmentation:
    """Metastable sets of the patches as segments.

    The sets are those of `forward_backward(chain)`, where patches belong together
    that attend to the same things; its stationary distribution is uniform. Their
    prevalence and retention are those in the attention chain itself.

    Args:
        attention: What `read_attention` returned.
        sets: Number of sets; when not given as many as out-and-back keeps apart: slow
            modes that keep a fifth or more of a difference, 2 to 8 of them.

    Returns:
        `SetSegmentation`, numbered by decreasing stationary mass.

    Raises:
        ArgumentError: Sets outside 2..24, or more than there are patches.
    """
    n = attention.grid.n_patches
    if sets is not None:
        check_sets(sets)
        check_count(sets, "sets", low=2, high=n, meaning=f"there are {n} patches")
    uniform = torch.full((n,), 1 / n, dtype=torch.float64)
    chain = attention.out_and_back
    if sets is None:
        most = min(_MOST_CHOSEN, n)
        found = _slowest(metastable_levels(chain, max_count=most, pi=uniform))
    else:
        found = metastable_sets(chain, sets, pi=uniform)
    read = coarse_grained(attention.chain, found.memberships)
    maps = attention.grid.to_map(read.memberships.T)
    return SetSegmentation(
        names=tuple(f"set {i}" for i in range(len(maps))),
        labels=largest(maps, **attention.size),
        attention=attention,
        sets=replace(read, eigenvalues=found.eigenvalues),
    )


def _slowest(levels: Sequence[MetastableSets]) -> MetastableSets:
    """The largest number of sets whose slow modes all keep `_KEPT`, or the first."""
    kept = [
        level
        for level in levels
        if float(level.eigenvalues[len(level.prevalence) - 1].abs()) >= _KEPT
    ]
    return kept[-1] if kept else levels[0]


def check_sets(sets: int) -> None:
    """Raises ArgumentError unless so many sets can be told apart."""
    meaning = "more cannot be told apart in a figure"
    check_count(sets, "sets", low=2, high=MOST_SETS, meaning=meaning)
