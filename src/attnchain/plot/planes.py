"""Maps and labels on the plane of the picture."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from attnchain.models import to_rgb

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
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
    from matplotlib.colors import to_rgb as rgb_of

    base = np.array([rgb_of(color) for color in _SEGMENTS])
    rounds = np.arange(count) // len(base)
    return base[np.arange(count) % len(base)] * (0.6 ** rounds[:, None])


PRINTED_POINTS = 8
"""Largest text of a figure for print."""
NARROWEST = 1.6
"""Inches that a panel needs in print."""
SHOWN_SIDE = 1024
"""Longer side of what is drawn, in pixels: a figure shows no more."""


def new_figure(width: float, height: float) -> "Figure":
    """A figure on a canvas of its own, whatever backend the environment names.

    Args:
        width: In inches.
        height: In inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def new_axes() -> "Axes":
    """Axes on a figure of their own, outside pyplot's global state."""
    return new_figure(5, 5).add_subplot()


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
    step = _step(picture.size)
    shown = to_rgb(picture)
    shown = np.asarray(shown.reduce(step) if step > 1 else shown)
    ax.imshow(shown, interpolation="bilinear", extent=_extent(picture.size))
    return _framed(ax, title)


def plot_map(
    values: Float[Tensor, "rows columns"],
    *,
    ax: "Axes | None" = None,
    title: str = "",
    label: str = "",
    over: "Image | None" = None,
) -> "Axes":
    """Draws one value for each patch or pixel, with its colour bar.

    Args:
        values: The map; at least 0 where it is drawn over a picture.
        ax: Axes to draw into; new ones by default.
        title: Heading.
        label: What the values are, and their unit; beside the colour bar.
        over: A picture, shown grey below, the clearer the smaller the value; the map
            covers the whole of it.

    Returns:
        The axes.
    """
    ax = ax or new_axes()
    size = (values.shape[1], values.shape[0])
    step = _step(size)
    shown = values.detach()[::step, ::step].cpu().numpy()
    image = ax.imshow(shown, cmap=MAP_COLORS, extent=_extent(size))
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
    bar.ax.xaxis.label.set_parse_math(False)
    if over is not None:
        image.set_alpha(0.15 + 0.65 * shown / max(shown.max(), 1e-30))
        _lay_below(over, size, ax)
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
    size = (labels.shape[1], labels.shape[0])
    step = _step(size)
    found = labels[::step, ::step].cpu().numpy()
    shown = colors[found]
    if picture is not None:
        grey = to_rgb(picture).resize((found.shape[1], found.shape[0])).convert("L")
        shown = 0.45 * np.asarray(grey)[..., None] / 255 + 0.55 * shown
    ax.imshow(shown, interpolation="bilinear", extent=_extent(size))
    patches = [Patch(color=c, label=n) for c, n in zip(colors, names, strict=True)]
    legend = ax.legend(
        handles=patches,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.02),
        fontsize="small",
        frameon=False,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return _framed(ax, title)


def tinted(
    labels: Int[Tensor, "height width"],
    picture: "Image | None",
    *,
    clear: int | None = None,
) -> "Image":
    """The picture at its own size, with every segment tinted in its colour.

    Args:
        labels: Segment of every pixel, below 256.
        picture: The picture, of that size; grey where there is none.
        clear: A segment that is left as it is.

    Returns:
        A Pillow picture of mode RGB.
    """
    from PIL import Image

    tint = indexed(labels).convert("RGB")
    below = Image.new("RGB", tint.size, "grey") if picture is None else to_rgb(picture)
    drawn = Image.blend(below, tint, 0.5)
    if clear is not None:
        kept = (labels == clear).cpu().numpy().astype(np.uint8) * 255
        drawn.paste(below, mask=Image.fromarray(kept))
    return drawn


def indexed(labels: Int[Tensor, "height width"]) -> "Image":
    """Segment numbers as a Pillow picture of mode P, shown in the figure's colours.

    Args:
        labels: Segment of every pixel, below 256.
    """
    from PIL import Image

    image = Image.fromarray(labels.to(torch.uint8).cpu().numpy())
    image.putpalette((segment_colors(256) * 255).round().astype(np.uint8).tobytes())
    return image


def _lay_below(picture: "Image", size: tuple[int, int], ax: "Axes") -> None:
    """The picture in grey, below a map of another size that covers it."""
    grey = to_rgb(picture).reduce(_step(picture.size)).convert("L")
    ax.imshow(np.asarray(grey), cmap="gray", extent=_extent(size), zorder=-1)
    width, height = picture.size
    ax.set_aspect(height / width * size[0] / size[1])


def _step(size: tuple[int, int]) -> int:
    """Every how many pixels one is drawn."""
    return max(1, -(-max(size) // SHOWN_SIDE))


def _extent(size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The axes count in pixels of the whole picture."""
    width, height = size
    return -0.5, width - 0.5, height - 0.5, -0.5


def _framed(ax: "Axes", title: str) -> "Axes":
    ax.set_title(title, fontsize="medium", parse_math=False)
    ax.set_anchor("N")
    ax.set_xticks([])
    ax.set_yticks([])
    return ax
