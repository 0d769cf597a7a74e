"""Figures of results."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from attnchain.evaluate.choosing import interval
from attnchain.plot import segment_colors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKERS = "osD^vP*X"


def bars(values: Mapping[str, Sequence[float]], label: str) -> "Figure":
    """Means with bootstrap intervals, the largest on top.

    Args:
        values: Scores of the pictures, by method.
        label: What the values are.

    Returns:
        A matplotlib figure that belongs to no global state.
    """
    from matplotlib.figure import Figure

    means = {name: sum(scores) / len(scores) for name, scores in values.items()}
    names = sorted(means, key=lambda name: means[name])
    figure = Figure(figsize=(9, 1.2 + 0.3 * len(names)), layout="constrained")
    ax = figure.add_subplot()
    ends = [interval(values[name]) for name in names]
    widths = [[means[n] - e[0] for n, e in zip(names, ends, strict=True)]]
    widths.append([e[1] - means[n] for n, e in zip(names, ends, strict=True)])
    colors = segment_colors(2)
    ax.barh(
        names,
        [means[name] for name in names],
        xerr=widths,
        color=[colors[1 if name == "default" else 0] for name in names],
        ecolor="0.3",
        capsize=2,
    )
    ax.set_xlim(0, 1)
    ax.set_xlabel(label)
    ax.tick_params(labelsize="small")
    return figure


def curves(
    lines: Mapping[str, Mapping[int, float]],
    across: str,
    label: str,
    *,
    paired: bool = False,
) -> "Figure":
    """One line for each entry.

    Args:
        lines: Values by position, by name.
        across: What the positions are.
        label: What the values are.
        paired: Draw each two lines in one colour, the second one dashed.

    Returns:
        A matplotlib figure that belongs to no global state.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 5), layout="constrained")
    ax = figure.add_subplot()
    colors = segment_colors(len(lines))
    for number, (name, points) in enumerate(lines.items()):
        group, second = divmod(number, 2) if paired else (number, 0)
        ax.plot(
            list(points),
            list(points.values()),
            marker=_MARKERS[group % len(_MARKERS)],
            linestyle="--" if second else "-",
            color=colors[group],
            markersize=4,
            label=name,
        )
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel(across)
    ax.set_ylabel(label)
    ax.legend(
        fontsize="x-small",
        ncols=2,
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        handlelength=4,
    )
    ax.grid(alpha=0.3)
    return figure
