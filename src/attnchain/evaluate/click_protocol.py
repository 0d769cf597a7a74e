"""Objects found by clicks: how many it takes."""

from typing import TYPE_CHECKING, Final

from jaxtyping import Int
from torch import Tensor

from attnchain.evaluate.charts import curves
from attnchain.evaluate.choosing import (
    best_settings,
    failures,
    halves,
    interval,
    of_method,
)
from attnchain.evaluate.click_methods import click_methods
from attnchain.evaluate.clicking import MOST_CLICKS, click_through, clicks_needed
from attnchain.evaluate.lines import Record
from attnchain.evaluate.method import Method
from attnchain.evaluate.protocol import Protocol, attempted
from attnchain.evaluate.subject import Subject
from attnchain.evaluate.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROTOCOL: Final = (
    "clicks: at most 20, the first at the most interior pixel of the object, each "
    "next one at the most interior pixel of the larger error; a mask after each click "
    "from all clicks together. NoC@q: mean number of clicks to an IoU of q, 20 where "
    "it is not reached. Clicking stops at IoU 0.90, and that IoU is then held. No "
    "refinement at pixel level. Settings chosen by IoU after one click"
)


class ClickProtocol(Protocol):
    """One object by clicks."""

    name = "clicks"
    kinds = ("object",)
    size = 518

    def all_methods(self, depth: int) -> list[Method]:
        return click_methods(depth)

    def scored(
        self, method: Method, subject: Subject, truth: Int[Tensor, "people h w"]
    ) -> Record:
        """IoU after each click; where the method fails, 0 after the first."""
        reached, failed = attempted(
            lambda: click_through(subject, truth[0], method.run), [0.0]
        )
        return {"iou": [round(value, 4) for value in reached], **failed}

    def tables(self, records: list[Record], marked: set[str]) -> list[Table]:
        choosing, reporting = halves(records, marked)
        best = best_settings(self.methods, choosing or reporting, first_click)
        return [click_table(best, choosing, reporting)]

    def figures(self, records: list[Record], marked: set[str]) -> "dict[str, Figure]":
        choosing, reporting = halves(records, marked)
        best = best_settings(self.methods, choosing or reporting, first_click)
        lines = {
            method.name: {
                n: held(of_method(records, method.name), n)
                for n in range(1, MOST_CLICKS + 1)
            }
            for method in best
        }
        return {"": curves(lines, "clicks", "mean IoU, all pictures")}


def held(scores: list[Record], clicks: int) -> float:
    """Mean IoU after a number of clicks; the last value is held."""
    values = [score["iou"][min(clicks, len(score["iou"])) - 1] for score in scores]
    return sum(values) / len(values)


def first_click(scores: list[Record]) -> float:
    """What settings are chosen by."""
    return held(scores, 1)


def click_table(
    best: list[Method], choosing: list[Record], reporting: list[Record]
) -> Table:
    """Chosen on one half, reported on the other."""
    rows = []
    for method in best:
        first = of_method(choosing, method.name)
        second = of_method(reporting, method.name) or first
        low, high = interval([score["iou"][0] for score in second])
        rows.append(
            (
                method.name,
                first_click(first) if first else None,
                f"{first_click(second):.3f} [{low:.3f}, {high:.3f}]",
                held(second, 3),
                held(second, 10),
                _noc(second, 0.85),
                _noc(second, 0.9),
                sum(max(score["iou"]) < 0.85 for score in second),
                failures(first + second),
            )
        )
    columns = (
        "method and chosen setting",
        "IoU after 1 click, choosing half",
        "IoU after 1 click, reporting half [95 %]",
        "IoU after 3, reporting half",
        "IoU after 10, reporting half",
        "NoC@85, reporting half",
        "NoC@90, reporting half",
        "0.85 never reached",
        "failed",
    )
    note = f"{len(choosing)} pictures to choose on, {len(reporting)} to report on."
    return Table("Clicks", f"{PROTOCOL}.", columns, tuple(rows), (note,))


def _noc(scores: list[Record], level: float) -> str:
    counts = [clicks_needed(score["iou"], level) for score in scores]
    return f"{sum(counts) / len(counts):.2f}"
