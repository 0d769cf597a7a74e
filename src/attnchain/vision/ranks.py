"""TokenRank of a picture's patches."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from attnchain.checks import check_whole
from attnchain.files import AbstractResult, Outputs
from attnchain.maps import enlarge, unit_range
from attnchain.markov import Direction
from attnchain.plot import save_figure, save_map
from attnchain.ranking import TokenRank, token_rank
from attnchain.vision.picture_attention import PictureAttention

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class PictureRank(AbstractResult):
    """How important every patch of a picture is to the whole attention.

    Attributes:
        attention: The chains it was read from.
        rank: TokenRank of the patches.
        top: The most important patches, by decreasing rank.
    """

    ending: ClassVar[str] = "-rank.json"
    beside: ClassVar[tuple[str, ...]] = ("-rank-map.png", "-rank.png")

    attention: PictureAttention
    rank: TokenRank
    top: tuple[int, ...]

    def plot(self, *, ax: "Axes | None" = None) -> "Axes":
        """Draws the rank as a map; 1 is the mean over the patches.

        Args:
            ax: Matplotlib axes to draw into; new ones by default.

        Returns:
            The axes.
        """
        return self.rank.plot(self.attention.grid, ax=ax)

    def summary(self) -> str:
        n = self.attention.grid.n_patches
        lines = [
            f"{self.attention.model_name}: {self.attention.model_note}",
            *self.attention.notes,
            self.rank.summary(),
            "  times the mean   centre (x, y) in pixels",
        ]
        for patch in self.top:
            x, y = self.attention.patch_centre(patch)
            share = float(self.rank.distribution[patch])
            lines.append(f"  {share * n:14.1f}   ({x:.0f}, {y:.0f})")
        return "\n".join(lines)

    def facts(self) -> dict[str, Any]:
        best = [
            {
                "patch": patch,
                "share": float(self.rank.distribution[patch]),
                "centre": self.attention.patch_centre(patch),
            }
            for patch in self.top
        ]
        return {**self.attention.facts(), **self.rank.facts(), "top": best}

    def write(self, outputs: Outputs) -> None:
        share = self.attention.grid.to_map(self.rank.distribution)
        large = unit_range(enlarge(share, **self.attention.size))
        save_map(large, outputs.path("-rank-map.png"))
        save_figure(self.plot(), outputs.path("-rank.png"))


def rank_patches(
    attention: PictureAttention,
    *,
    damping: float = 0.99,
    direction: Direction = "incoming",
    count: int = 10,
) -> PictureRank:
    """TokenRank of the patches in the mixed chain.

    Args:
        attention: What `read_attention` returned.
        damping: Probability of following attention rather than jumping.
        direction: See `token_rank`.
        count: How many of the most important patches to list; all, if there are less.

    Returns:
        `PictureRank`.

    Raises:
        ArgumentError: Damping outside (0, 1], an unknown direction, or a count below
            one.
        ConvergenceError: TokenRank was not found to its tolerance.
    """
    check_whole(count, "count")
    rank = token_rank(attention.chain, damping=damping, direction=direction)
    return PictureRank(attention, rank, tuple(rank.top(count).tolist()))
