"""The overview figure of a segmentation, and the panels it is made of."""

import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from attnchain.plot import plot_labels, plot_map, plot_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

    from attnchain.vision.attention import PictureAttention
    from attnchain.vision.segmentation import Segmentation

Panel = Callable[["Axes"], object]
Pixel = tuple[float, float]
BOUNCES_SHOWN = 3
_LETTERS = 40
"""Of the heading, that fit above one panel."""


def segmentation_figure(result: "Segmentation") -> "Figure":
    """What a segmentation was decided by, and the segments, side by side."""
    from matplotlib.figure import Figure

    panels, (height, width) = result.panels(), result.labels.shape
    tall = 3.0 * min(max(height / width, 0.3), 4.0) + 1.1 + 0.15 * len(result.names)
    size = (3.0 * (len(panels) + 1), tall)
    figure = Figure(figsize=size, layout="constrained")
    *axes, last = figure.subplots(1, len(panels) + 1, squeeze=False)[0]
    for draw, ax in zip(panels, axes, strict=True):
        draw(ax)
    plot_labels(
        result.labels, result.picture, result.legend, ax=last, title=result.title
    )
    heading = textwrap.fill(result.heading, _LETTERS * (len(panels) + 1))
    figure.suptitle(heading, fontsize="small")
    return figure


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
