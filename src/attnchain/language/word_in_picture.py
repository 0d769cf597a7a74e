"""Where in a picture the walkers from a word of a prompt or answer arrive."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from attnchain.capturing import TokenGrid
from attnchain.files import AbstractResult, Outputs
from attnchain.maps import enlarge, shared_out
from attnchain.plot import plot_map, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class WordInPicture(AbstractResult):
    """Where walkers from a word arrive in a picture.

    A picture that the prompt holds in tiles and once more as a whole has one map: what
    lies in its larger patches is shared out evenly among the smaller ones they cover.

    Attributes:
        word: The word.
        start: Positions of its tokens, from which the walkers start evenly.
        map: Share of the walkers in each patch, row by row.
        reached: Share of them in this picture after 1, 2, ... bounces; the others are
            on words, or in another picture.
        views: Rows and columns of each way in which the prompt holds the picture.
        layers: Layer numbers, counted from 0.
        treatment: What was done about sinks.
        picture: The picture; None where it is not known.
    """

    ending: ClassVar[str] = "-word.json"
    beside: ClassVar[tuple[str, ...]] = ("-word.png",)

    word: str
    start: tuple[int, ...]
    map: Float[Tensor, "rows columns"]
    reached: tuple[float, ...]
    views: tuple[tuple[int, int], ...]
    layers: tuple[int, ...]
    treatment: str
    picture: "Image | None" = None

    @property
    def bounces(self) -> int:
        """Number of bounces."""
        return len(self.reached)

    def summary(self) -> str:
        rows, columns = self.map.shape
        best = int(self.map.argmax())
        shares = ", ".join(f"{share:.3f}" for share in self.reached)
        return "\n".join(
            [
                f"{self.word!r} at {', '.join(map(str, self.start))}; {self.treatment}",
                f"in the picture after 1 to {self.bounces} bounces: {shares}",
                f"most in row {best // columns}, column {best % columns} of "
                f"{rows} x {columns} patches: {float(self.map.max()):.3f}",
            ]
        )

    def facts(self) -> dict[str, Any]:
        return {
            "word": self.word,
            "start": self.start,
            "bounces": self.bounces,
            "reached": self.reached,
            "map": self.map.tolist(),
            "views": self.views,
            "layers": self.layers,
            "treatment": self.treatment,
        }

    def enlarged(self, width: int, height: int) -> Float[Tensor, "height width"]:
        """The map at the size of the picture, see `maps.enlarge`; 1 is its mean.

        Args:
            width: In pixels.
            height: In pixels.
        """
        mean = self.map.mean().clamp_min(1e-300)
        return enlarge(self.map[None] / mean, width=width, height=height)[0]

    def plot(self, *, ax: "Axes | None" = None) -> "Axes":
        """Draws the map, over the picture where it is known.

        Args:
            ax: Matplotlib axes to draw into; new ones by default.

        Returns:
            The axes.
        """
        title = f"{self.word}, {self.bounces} bounce{'s' * (self.bounces > 1)}"
        label = "share of the walkers"
        return plot_map(self.map, ax=ax, title=title, label=label, over=self.picture)

    def write(self, outputs: Outputs) -> None:
        save_figure(self.plot(), outputs.path("-word.png"))


def map_of(
    shares: Float[Tensor, "bounces n"], views: Sequence[TokenGrid]
) -> tuple[Float[Tensor, "bounces rows columns"], tuple[tuple[int, int], ...]]:
    """Shares of all tokens as one map of a picture, on the finest of its grids.

    Args:
        shares: One for each token of the sequence.
        views: The grids of one picture.

    Returns:
        The map, and rows and columns of each view.
    """
    finest = max(views, key=lambda view: view.n_patches)
    size: Any = {"rows": finest.rows, "columns": finest.columns}
    parts = [shared_out(view.to_map(shares), **size) for view in views]
    whole = sum(parts[1:], start=parts[0])
    return whole, tuple((view.rows, view.columns) for view in views)
