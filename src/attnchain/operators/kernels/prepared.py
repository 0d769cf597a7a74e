"""One chain ready for products, and the one that is multiplied tile by tile."""

from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from attnchain.operators.kernels import tiles

Side = Literal["push", "pull"]
"""v P or P f."""


class Head(Protocol):
    """One chain ready for products."""

    @property
    def sums(self) -> tiles.Rows:
        """Row maxima and sums."""
        ...

    def multiply(self, vectors: Tensor, side: Side) -> Tensor:
        """(r, n) vectors times P, or P times them."""
        ...


@dataclass(frozen=True)
class TiledHead:
    """A chain that is multiplied tile by tile: its scores and their row sums."""

    scores: tiles.Scores
    sums: tiles.Rows

    @classmethod
    def prepare(cls, scores: tiles.Scores) -> "TiledHead":
        """Makes the pass that finds the row maxima and sums."""
        return cls(scores, tiles.row_sums(scores))

    def multiply(self, vectors: Tensor, side: Side) -> Tensor:
        """(r, n) vectors times P, or P times them."""
        product = tiles.push if side == "push" else tiles.pull
        return product(self.scores, self.sums, vectors)
