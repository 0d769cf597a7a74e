"""The overview figure of a segmentation."""

from typing import TYPE_CHECKING

from attnchain.plot import plot_labels, plot_map, plot_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from attnchain.tasks.reading import PictureAttention
    from attnchain.tasks.segmentation import Segmentation

_BOUNCES_SHOWN = 3


def segmentation_figure(result: "Segmentation") -> "Figure":
    """Picture, first bounces, TokenRank and segments, side by side.

    Args:
        result: What `segment` returned.

    Returns:
        A matplotlib figure that belongs to no global state.
    """
    from matplotlib.figure import Figure

    attention = result.attention
    shown = result.bounces[:_BOUNCES_SHOWN]
    panels = 3 + len(shown)
    names = segment_names(result)
    aspect = attention.picture.height / attention.picture.width
    height = 3.0 * min(max(aspect, 0.3), 4.0) + 1.1 + 0.15 * len(names)
    size = (3.0 * panels, height)
    figure = Figure(figsize=size, layout="constrained")
    axes = iter(figure.subplots(1, panels))
    ax = plot_picture(attention.picture, ax=next(axes), title="picture and start")
    x, y = patch_centre(attention, result.start)
    ax.plot([x], [y], "+", color="white", markersize=14, markeredgewidth=4)
    ax.plot([x], [y], "+", color="#D55E00", markersize=13, markeredgewidth=2)
    n = attention.grid.n_patches
    for number, bounce in enumerate(shown, start=1):
        title = f"after {number} bounce{'s' if number > 1 else ''}"
        plot_map(bounce * n, ax=next(axes), title=title, label="times a uniform walker")
    result.rank.plot(attention.grid, ax=next(axes))
    plot_labels(
        result.labels,
        attention.picture,
        names,
        ax=next(axes),
        title=_TITLES[result.mode],
    )
    figure.suptitle(
        f"{attention.model_name}, layers {', '.join(map(str, attention.layers))} — "
        f"{attention.model_note}",
        fontsize="small",
    )
    return figure


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
