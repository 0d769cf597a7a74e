"""Labels, maps and figures as PNG files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attnchain.checks import check_positive
from attnchain.errors import ArgumentError
from attnchain.plot.planes import NARROWEST, PRINTED_POINTS, indexed

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


def save_figure(
    drawn: "Figure | Axes", path: Path, *, width: float | None = None
) -> None:
    """A figure, or the one that holds the axes, as a file.

    Args:
        drawn: What a plot function returned.
        path: Where to; .png, .pdf or .svg.
        width: In inches, as it will be printed: 3.25 for a column of a paper, 6.75 for
            both. Its height follows, no text is larger than 8 points, and a PNG has
            300 dots an inch. By default as it was drawn.

    Raises:
        ArgumentError: A width that is no number > 0, or too narrow for the panels.
    """
    from matplotlib.figure import Figure

    figure = drawn if isinstance(drawn, Figure) else drawn.get_figure(root=True)
    if figure is None:
        return
    if width is None:
        figure.savefig(path, dpi=110)
        return
    _check_room(figure, width)
    with _printed(figure, width):
        figure.savefig(path, dpi=300)


@contextmanager
def _printed(figure: "Figure", width: float) -> Iterator[None]:
    """The figure in the size of a paper, for a while."""
    from matplotlib.text import Text

    across, down = (float(side) for side in figure.get_size_inches())
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    before = [text.get_fontsize() for text in texts]
    try:
        figure.set_size_inches(width, width * down / across)
        for text, points in zip(texts, before, strict=True):
            text.set_fontsize(min(points, PRINTED_POINTS))
        yield
    finally:
        figure.set_size_inches(across, down)
        for text, points in zip(texts, before, strict=True):
            text.set_fontsize(points)


def _check_room(figure: "Figure", width: float) -> None:
    """Raises where panels side by side would be too narrow to read."""
    check_positive(width, "width")
    grids = [ax.get_gridspec() for ax in figure.axes]
    columns = max((grid.ncols for grid in grids if grid is not None), default=1)
    if columns * NARROWEST > width:
        message = (
            f"width must be at least {columns * NARROWEST:g} inches for {columns} "
            f"panels side by side, but is {width}; result.plot(width={width}) draws "
            f"them in rows"
        )
        raise ArgumentError(message)
