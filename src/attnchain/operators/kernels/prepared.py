"""One chain ready for products, and the one that is multiplied tile by tile."""

from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from attnchain.operators.kernels import tiled

Side = Literal["push", "pull"]
"""v P or P f."""


class Head(Protocol):
    """One chain ready for products."""

    @property
    def sums(self) -> tiled.Rows:
        """Row maxima and sums."""
        ...

    def multiply(self, vectors: Tensor, side: Side) -> Tensor:
        """(r, n) vectors times P, or P times them."""
        ...


@dataclass(frozen=True)
class TiledHead:
    """A chain that is multiplied tile by tile: its scores and their row sums."""

    scores: tiled.Scores
    sums: tiled.Rows

    @classmethod
    def prepare(cls, scores: tiled.Scores) -> "TiledHead":
        """Makes the pass that finds the row maxima and sums."""
        return cls(scores, tiled.row_sums(scores))

    def multiply(self, vectors: Tensor, side: Side) -> Tensor:
        """(r, n) vectors times P, or P times them."""
        product = tiled.push if side == "push" else tiled.pull
        return product(self.scores, self.sums, vectors)
