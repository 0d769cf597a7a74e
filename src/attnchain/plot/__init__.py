"""Results as matplotlib pictures: a value and axes in, the axes out; no state.

`plot_picture`, `plot_map`, `plot_labels` draw on the plane of the picture;
`plot_heads` and `plot_spectrum` draw what is known about chains; `save_figure`,
`save_labels` and `save_map` write files; figures for print have `PRINTED_POINTS`
and panels of at least `NARROWEST` inches.
"""

from attnchain.plot.planes import (
    NARROWEST,
    PRINTED_POINTS,
    new_figure,
    plot_labels,
    plot_map,
    plot_picture,
    segment_colors,
    tinted,
)
from attnchain.plot.saving import save_figure, save_labels, save_map
from attnchain.plot.spectra import plot_heads, plot_spectrum

__all__ = [
    "NARROWEST",
    "PRINTED_POINTS",
    "new_figure",
    "plot_heads",
    "plot_labels",
    "plot_map",
    "plot_picture",
    "plot_spectrum",
    "save_figure",
    "save_labels",
    "save_map",
    "segment_colors",
    "tinted",
]
