"""Labels, maps and figures as PNG files."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attnchain.plot.planes import indexed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def save_labels(labels: Int[Tensor, "height width"], path: Path) -> None:
    """An index PNG: pixel value = segment number, shown in the figure's colours.

    Args:
        labels: Segment of every pixel, below 256.
        path: Where to; ends in .png.
    """
    indexed(labels).save(path)


def save_map(values: Float[Tensor, "height width"], path: Path) -> None:
    """A soft map as an 8-bit grey PNG.

    Args:
        values: The map, in [0, 1].
        path: Where to; ends in .png.
    """
    from PIL import Image

    rows = values.split(max(1, 2**22 // max(1, values.shape[1])))
    grey = torch.cat([(part * 255).round().to(torch.uint8) for part in rows])
    Image.fromarray(grey.cpu().numpy()).save(path)


def save_figure(drawn: "Figure | Axes", path: Path) -> None:
    """A figure, or the one that holds the axes, as PNG.

    Args:
        drawn: What a plot function returned.
        path: Where to; ends in .png.
    """
    from matplotlib.figure import Figure

    figure = drawn if isinstance(drawn, Figure) else drawn.get_figure(root=True)
    if figure is not None:
        figure.savefig(path, dpi=110)
