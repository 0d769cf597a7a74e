"""The overview figure of a segmentation."""

import textwrap
from functools import partial
from typing import TYPE_CHECKING

from attnchain.plot import plot_labels, plot_map, plot_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from attnchain.vision.attention import PictureAttention
    from attnchain.vision.segments import Segmentation

_BOUNCES_SHOWN = 3
_LETTERS = 40
"""Of the heading, that fit above one panel."""


def segmentation_figure(result: "Segmentation") -> "Figure":
    """What a segmentation was cut from, and the segments, side by side.

    Metastable sets and the segment of a point: the start, its first bounces, TokenRank
    or the map. The main object: what the class token sees, and the map.

    Args:
        result: What `segment` returned.

    Returns:
        A matplotlib figure that belongs to no global state.
    """
    from matplotlib.figure import Figure

    attention = result.attention
    names = segment_names(result)
    if result.mode == "foreground":
        panels = [partial(_picture, result, start=False), partial(_seen, result)]
    else:
        panels = [partial(_picture, result, start=True)]
        shown = range(min(_BOUNCES_SHOWN, len(result.bounces)))
        panels += [partial(_bounce, result, number) for number in shown]
    panels.append(partial(_rank if result.mode == "automatic" else _map, result))
    aspect = attention.picture.height / attention.picture.width
    height = 3.0 * min(max(aspect, 0.3), 4.0) + 1.1 + 0.15 * len(names)
    size = (3.0 * (len(panels) + 1), height)
    figure = Figure(figsize=size, layout="constrained")
    *axes, last = figure.subplots(1, len(panels) + 1)
    for draw, ax in zip(panels, axes, strict=True):
        draw(ax)
    title = _TITLES[result.mode]
    plot_labels(result.labels, attention.picture, names, ax=last, title=title)
    heading = (
        f"{attention.model_name}, layers {', '.join(map(str, attention.layers))} — "
        f"{attention.model_note}"
    )
    width = _LETTERS * (len(panels) + 1)
    figure.suptitle(textwrap.fill(heading, width), fontsize="small")
    return figure


def _picture(result: "Segmentation", ax: "Axes", *, start: bool) -> None:
    attention = result.attention
    title = "picture and start" if start else "picture"
    plot_picture(attention.picture, ax=ax, title=title)
    if start:
        x, y = patch_centre(attention, result.start)
        ax.plot([x], [y], "+", color="white", markersize=14, markeredgewidth=4)
        ax.plot([x], [y], "+", color="#D55E00", markersize=13, markeredgewidth=2)


def _seen(result: "Segmentation", ax: "Axes") -> None:
    attention = result.attention
    seen = attention.grid.to_map(attention.class_rows[-1].mean(0))
    title = "what the class token sees"
    plot_map(seen / seen.mean(), ax=ax, title=title, label="times the mean patch")


def _bounce(result: "Segmentation", number: int, ax: "Axes") -> None:
    title = f"after {number + 1} bounce{'s' if number else ''}"
    shares = result.bounces[number] * result.attention.grid.n_patches
    plot_map(shares, ax=ax, title=title, label="times a uniform walker")


def _rank(result: "Segmentation", ax: "Axes") -> None:
    result.rank.plot(result.attention.grid, ax=ax)


def _map(result: "Segmentation", ax: "Axes") -> None:
    plot_map(result.maps[0], ax=ax, title="map the mask is cut from", label="0 to 1")


_TITLES = {
    "automatic": "metastable sets",
    "point": "segment of the point",
    "foreground": "main object",
}


def segment_names(result: "Segmentation") -> list[str]:
    """What each label stands for, for the legend.

    Args:
        result: What `segment` returned.

    Returns:
        One name for each label: for metastable sets, their stationary mass and how
        much of it stays for a bounce.
    """
    if result.sets is None:
        return ["rest", "object"]
    shares = zip(
        result.sets.prevalence.tolist(), result.sets.retention.tolist(), strict=True
    )
    return [
        f"set {i}: {mass:.0%} of walkers, {stay:.0%} stay"
        for i, (mass, stay) in enumerate(shares)
    ]


def patch_centre(attention: "PictureAttention", patch: int) -> tuple[float, float]:
    """Centre of a patch in pixels of the picture.

    Args:
        attention: What `read_attention` returned.
        patch: Number of the patch, row by row.

    Returns:
        (x, y).
    """
    grid, picture = attention.grid, attention.picture
    row, column = divmod(patch, grid.columns)
    return (
        (column + 0.5) * picture.width / grid.columns,
        (row + 0.5) * picture.height / grid.rows,
    )
