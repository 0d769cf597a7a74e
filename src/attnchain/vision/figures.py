"""Figures of several panels side by side, and the panels they are made of."""

import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from jaxtyping import Float, Int
from torch import Tensor

from attnchain.checks import check_positive
from attnchain.errors import ArgumentError
from attnchain.plot import (
    NARROWEST,
    PRINTED_POINTS,
    new_figure,
    plot_labels,
    plot_map,
    plot_picture,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

    from attnchain.vision.picture_attention import PictureAttention

Panel = Callable[["Axes"], object]
Pixel = tuple[float, float]
BOUNCES_SHOWN = 3
_LETTERS = 40 / 3
"""Of the heading, that fit above an inch."""


def side_by_side(
    panels: Sequence[Panel],
    *,
    heading: str,
    shape: Sequence[int],
    names: int,
    width: float | None,
) -> "Figure":
    """One figure of several panels, in one row, or in rows of a paper's width.

    Args:
        panels: What is drawn, left to right; the last has the legend below it.
        heading: The line above all of them.
        shape: Height and width of what is drawn.
        names: Number of lines in the legend.
        width: Of the figure as it will be printed, in inches; None for one row.
    """
    if width is None:
        return _in_rows(panels, heading, shape, names, len(panels), 3.0)
    check_positive(width, "width")
    if width < 2 * NARROWEST:
        message = f"width must be at least {2 * NARROWEST} inches, but is {width}"
        raise ArgumentError(message)
    import matplotlib

    rows = -(-len(panels) // int(width / NARROWEST))
    columns = -(-len(panels) // rows)
    with matplotlib.rc_context({"font.size": PRINTED_POINTS}):
        return _in_rows(panels, heading, shape, names, columns, width / columns)


def _in_rows(  # noqa: PLR0917  (what a figure is made of)
    panels: Sequence[Panel],
    heading: str,
    shape: Sequence[int],
    names: int,
    columns: int,
    width: float,
) -> "Figure":
    """Panels of a width, so many in a row."""
    rows = -(-len(panels) // columns)
    drawn = width * min(max(shape[0] / shape[1], 0.3), 4.0) + 1.1
    heights = [drawn] * (rows - 1) + [drawn + 0.15 * names]
    figure = new_figure(width * columns, sum(heights))
    parts = figure.subfigures(rows, 1, squeeze=False, height_ratios=heights)[:, 0]
    axes = [ax for part in parts for ax in part.subplots(1, columns, squeeze=False)[0]]
    for draw, ax in zip(panels, axes, strict=False):
        draw(ax)
    for ax in axes[len(panels) :]:
        ax.remove()
    lines = textwrap.fill(heading, round(_LETTERS * width * columns))
    figure.suptitle(lines, fontsize="small", parse_math=False)
    return figure


def segments(
    labels: Int[Tensor, "height width"],
    shown: "Image | None",
    legend: Sequence[str],
    title: str,
) -> Panel:
    """The segments as tints over the picture, and what each stands for."""
    return lambda ax: plot_labels(labels, shown, legend, ax=ax, title=title)


def picture(
    shown: "Image",
    *,
    title: str = "picture",
    on: Sequence[Pixel] = (),
    off: Sequence[Pixel] = (),
) -> Panel:
    """The picture, with points marked on an object and off it."""
    return partial(_picture, shown, title, {"+": on, "x": off})


def walk(attention: "PictureAttention", start: int) -> list[Panel]:
    """The picture with a patch marked, and where attention from it is."""
    centre, title = attention.patch_centre(start), "picture and start"
    maps = attention.bounces(start, BOUNCES_SHOWN)
    return [
        picture(attention.picture, title=title, on=[centre]),
        *(partial(_bounce, shares, number) for number, shares in enumerate(maps, 1)),
    ]


def seen(attention: "PictureAttention") -> Panel:
    """What the class token looks at."""
    row = attention.grid.to_map(attention.class_rows[-1].mean(0))
    title, label = "what the class token sees", "times the mean patch"
    return lambda ax: plot_map(row / row.mean(), ax=ax, title=title, label=label)


def rank(attention: "PictureAttention") -> Panel:
    """TokenRank of the patches."""
    return lambda ax: attention.rank.plot(attention.grid, ax=ax)


def one_map(values: Float[Tensor, "height width"], *, title: str, label: str) -> Panel:
    """One map, with its colour bar."""
    return lambda ax: plot_map(values, ax=ax, title=title, label=label)


def _picture(
    shown: "Image", title: str, points: dict[str, Sequence[Pixel]], ax: "Axes"
) -> None:
    plot_picture(shown, ax=ax, title=title)
    for mark, places in points.items():
        if places:
            x, y = zip(*places, strict=True)
            for color, width in (("white", 4), ("#D55E00", 2)):
                style = {"linestyle": "", "marker": mark, "markersize": 13}
                ax.plot(x, y, color=color, markeredgewidth=width, **style)


def _bounce(shares: Tensor, number: int, ax: "Axes") -> None:
    title = f"after {number} bounce{'s' if number > 1 else ''}"
    label = "times a uniform walker"
    plot_map(shares * shares.numel(), ax=ax, title=title, label=label)
