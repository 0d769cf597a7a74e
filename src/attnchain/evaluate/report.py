"""Results as tables and figures; settings chosen on one half of the pictures."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

from attnchain.evaluate.method import Method
from attnchain.plot import segment_colors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Record = dict[str, Any]
Cell = float | int | str | None
Part = Literal["choosing half", "reporting half", "all"]

_MARKERS = "osD^vP*X"


@dataclass(frozen=True)
class Table:
    """One table of results.

    Attributes:
        title: What was measured.
        protocol: How; printed above the table.
        columns: Headings, the first for the methods.
        rows: Cells; numbers, text, or None where there is nothing.
        notes: Sentences printed below.
    """

    title: str
    protocol: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = field(default=())

    def markdown(self) -> str:
        """The table as Markdown.

        Example:
            >>> print(Table("T", "P.", ("method", "IoU"), (("ours", 0.84),)).markdown())
            ### T
            <BLANKLINE>
            Protocol: P.
            <BLANKLINE>
            | method | IoU |
            |---|---|
            | ours | 0.840 |
        """
        lines = [
            f"### {self.title}",
            "",
            f"Protocol: {self.protocol}",
            "",
            "| " + " | ".join(self.columns) + " |",
            "|" + "---|" * len(self.columns),
            *("| " + " | ".join(map(_text, row)) + " |" for row in self.rows),
        ]
        if self.notes:
            lines += ["", *self.notes]
        return "\n".join(lines)


def _text(value: Cell) -> str:
    """A cell as text; three decimals for a score."""
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Column:
    """One column: a number of each method, from its scores on a part of the pictures.

    Attributes:
        heading: What it is; the part is added to it.
        part: The pictures whose scores are taken.
        value: From those scores to the cell.
        interval: Whether `value` gives numbers of which mean and interval are shown.
    """

    heading: str
    part: Part
    value: Callable[[list[Record]], Any]
    interval: bool = False

    def __str__(self) -> str:
        part = f"{self.heading}, {self.part}" if self.part != "all" else self.heading
        return f"{part} [95 %]" if self.interval else part

    def cell(self, scores: list[Record]) -> Cell:
        """The cell of one method; None where there are no scores."""
        if not scores:
            return None
        value = self.value(scores)
        return mean_and_interval(value) if self.interval else value


class Results:
    """The records of a run in two halves: settings are chosen on one.

    Args:
        records: One for each picture.
        marked: Names of the pictures of the half to choose on.
    """

    def __init__(self, records: Iterable[Record], marked: set[str]) -> None:
        self.records = list(records)
        self.choosing = [r for r in self.records if r["picture"] in marked]
        self.reporting = [r for r in self.records if r["picture"] not in marked]

    def scores(self, method: Method, part: Part) -> list[Record]:
        """The scores of a method on a part of the pictures, picture by picture."""
        halves = {"choosing half": self.choosing, "reporting half": self.reporting}
        return [r["scores"][method.name] for r in halves.get(part, self.records)]

    def best(
        self, methods: Iterable[Method], score: Callable[[list[Record]], float]
    ) -> list[Method]:
        """For each family the setting of highest score on the choosing half.

        Of equal ones the first. Where that half is empty, on the other one.

        Args:
            methods: Methods with their settings.
            score: From the scores of one method to the number to be large.

        Returns:
            By decreasing score.
        """
        part: Part = "choosing half" if self.choosing else "reporting half"
        best: dict[str, tuple[float, Method]] = {}
        for method in methods:
            value = score(self.scores(method, part))
            if method.family not in best or value > best[method.family][0]:
                best[method.family] = (value, method)
        return [m for _, m in sorted(best.values(), key=lambda pair: -pair[0])]

    def table(
        self, title: str, protocol: str, methods: list[Method], columns: list[Column]
    ) -> Table:
        """One row for each method."""
        rows = tuple(
            (m.title, *(c.cell(self.scores(m, c.part)) for c in columns))
            for m in methods
        )
        headings = ("method and chosen setting", *map(str, columns))
        halved = any(column.part != "all" for column in columns)
        counts = f"{len(self.choosing)} pictures to choose on, {len(self.reporting)}"
        notes = (f"{counts} to report on.",) if halved else ()
        return Table(title, f"{protocol}.", headings, rows, notes)

    def bars(
        self, methods: list[Method], label: str, values: Callable[[list[Record]], Any]
    ) -> "Figure":
        """Means of methods with intervals on the reporting half, the largest on top."""
        part: Part = "reporting half" if self.reporting else "choosing half"
        return bars(
            {m.name: values(self.scores(m, part)) for m in methods},
            f"{label}; {part}, mean and 95 % interval",
            strong={m.name for m in methods if m.own},
        )


FAILED = Column("failed", "all", lambda scores: sum("failed" in s for s in scores))
"""On how many pictures a method gave nothing and was scored as empty."""


def each(name: str) -> Callable[[list[Record]], list[float]]:
    """Reads one number of every picture."""
    return lambda scores: [score[name] for score in scores]


def mean_of(name: str) -> Callable[[list[Record]], float]:
    """Reads the mean of one number over the pictures."""
    return lambda scores: sum(score[name] for score in scores) / len(scores)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % bootstrap interval of a mean (2,000 draws, fixed seed).

    Example:
        >>> interval([0.5, 0.5, 0.5])
        (0.5, 0.5)
    """
    sample = torch.tensor(values, dtype=torch.float64)
    draw = torch.Generator().manual_seed(0)
    index = torch.randint(len(sample), (2000, len(sample)), generator=draw)
    low, high = sample[index].mean(1).quantile(torch.tensor([0.025, 0.975]).double())
    return float(low), float(high)


def mean_and_interval(values: Sequence[float]) -> str:
    """A mean and its interval, for a cell.

    Example:
        >>> mean_and_interval([0.5, 0.5])
        '0.500 [0.500, 0.500]'
    """
    low, high = interval(values)
    return f"{sum(values) / len(values):.3f} [{low:.3f}, {high:.3f}]"


def bars(
    values: Mapping[str, Sequence[float]], label: str, *, strong: set[str]
) -> "Figure":
    """Means with bootstrap intervals, the largest on top.

    Args:
        values: Scores of the pictures, by method.
        label: What the values are.
        strong: Names drawn in another colour.

    Returns:
        A matplotlib figure that belongs to no global state.
    """
    from matplotlib.figure import Figure

    means = {name: sum(scores) / len(scores) for name, scores in values.items()}
    names = sorted(means, key=lambda name: means[name])
    ends = [interval(values[name]) for name in names]
    middles = [means[name] for name in names]
    below = [m - low for m, (low, _) in zip(middles, ends, strict=True)]
    above = [high - m for m, (_, high) in zip(middles, ends, strict=True)]
    plain, other = segment_colors(2)
    colors = [other if name in strong else plain for name in names]
    figure = Figure(figsize=(9, 1.2 + 0.3 * len(names)), layout="constrained")
    ax = figure.add_subplot()
    errors = {"xerr": [below, above], "ecolor": "0.3", "capsize": 2}
    ax.barh(names, middles, color=colors, **errors)
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
    place = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
    ax.legend(fontsize="x-small", ncols=2, handlelength=4, **place)
    ax.grid(alpha=0.3)
    return figure
