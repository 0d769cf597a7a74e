"""Maps and labels on the plane of the picture."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL.Image import Image

MAP_COLORS = "viridis"
"""Perceptually uniform and readable by the colour-blind."""

_SEGMENTS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#F0E442",
    "#999999",
)
"""The colours of Okabe and Ito, chosen for colour-blind readers."""


def segment_colors(count: int) -> Float[np.ndarray, "count 3"]:
    """Colours of segments 0, 1, 2, ..., as RGB in [0, 1].

    Args:
        count: Number of segments; beyond eight the colours repeat, darker.

    Returns:
        One row for each segment.
    """
    from matplotlib.colors import to_rgb

    base = np.array([to_rgb(color) for color in _SEGMENTS])
    rounds = np.arange(count) // len(base)
    return base[np.arange(count) % len(base)] * (0.6 ** rounds[:, None])


def new_axes() -> "Axes":
    """Axes on a figure of their own, outside pyplot's global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(5, 5), layout="constrained").add_subplot()


def plot_picture(
    picture: "Image", *, ax: "Axes | None" = None, title: str = ""
) -> "Axes":
    """Draws the picture itself.

    Args:
        picture: A Pillow picture.
        ax: Axes to draw into; new ones by default.
        title: Heading.

    Returns:
        The axes.
    """
    ax = ax or new_axes()
    ax.imshow(np.asarray(picture.convert("RGB")), interpolation="bilinear")
    return _framed(ax, title)


def plot_map(
    values: Float[Tensor, "rows columns"],
    *,
    ax: "Axes | None" = None,
    title: str = "",
    label: str = "",
) -> "Axes":
    """Draws one value for each patch or pixel, with its colour bar.

    Args:
        values: The map.
        ax: Axes to draw into; new ones by default.
        title: Heading.
        label: What the values are, and their unit; beside the colour bar.

    Returns:
        The axes.
    """
    ax = ax or new_axes()
    image = ax.imshow(values.detach().cpu().numpy(), cmap=MAP_COLORS)
    bar = ax.figure.colorbar(
        image,
        ax=ax,
        location="bottom",
        anchor=(0.5, 1.0),
        panchor=(0.5, 1.0),
        shrink=0.9,
        aspect=30,
        pad=0.03,
        label=label,
    )
    bar.ax.tick_params(labelsize="small")
    return _framed(ax, title)


def plot_labels(
    labels: Int[Tensor, "height width"],
    picture: "Image | None",
    names: Sequence[str],
    *,
    ax: "Axes | None" = None,
    title: str = "",
) -> "Axes":
    """Draws segments as coloured outlines and tints over the picture.

    Args:
        labels: Segment of every pixel.
        picture: The picture, shown at the size of the labels; None where there is none.
        names: Legend of segments 0, 1, 2, ...
        ax: Axes to draw into; new ones by default.
        title: Heading.

    Returns:
        The axes.
    """
    from matplotlib.patches import Patch

    ax = ax or new_axes()
    colors = segment_colors(len(names))
    shown = colors[labels.cpu().numpy()]
    if picture is not None:
        grey = picture.convert("L").resize((labels.shape[1], labels.shape[0]))
        shown = 0.45 * np.asarray(grey)[..., None] / 255 + 0.55 * shown
    ax.imshow(shown, interpolation="bilinear")
    patches = [Patch(color=c, label=n) for c, n in zip(colors, names, strict=True)]
    ax.legend(
        handles=patches,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.02),
        fontsize="small",
        frameon=False,
    )
    return _framed(ax, title)


def _framed(ax: "Axes", title: str) -> "Axes":
    ax.set_title(title, fontsize="medium")
    ax.set_anchor("N")
    ax.set_xticks([])
    ax.set_yticks([])
    return ax
