"""Tables that name their protocol, as Markdown and as data."""

from dataclasses import dataclass, field


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
    rows: tuple[tuple[float | int | str | None, ...], ...]
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
            *("| " + " | ".join(map(cell, row)) + " |" for row in self.rows),
        ]
        if self.notes:
            lines += ["", *self.notes]
        return "\n".join(lines)


def cell(value: float | int | str | None) -> str:
    """A cell as text; three decimals for a score."""
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
