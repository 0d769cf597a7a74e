"""Whole pictures cut into regions: covering, and classes matched one to one."""

from typing import TYPE_CHECKING, Any, Final

import torch
from jaxtyping import Int
from torch import Tensor

from attnchain.evaluate import metrics
from attnchain.evaluate.charts import bars
from attnchain.evaluate.choosing import (
    best_settings,
    failures,
    halves,
    interval,
    mean_of,
    of_method,
)
from attnchain.evaluate.datasets import VOID
from attnchain.evaluate.lines import Record
from attnchain.evaluate.method import Method
from attnchain.evaluate.protocol import Protocol, attempted
from attnchain.evaluate.region_methods import region_methods
from attnchain.evaluate.subject import Subject
from attnchain.evaluate.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COVERING: Final = (
    "covering of the drawn regions by the segments, at picture size, each region "
    "weighted by its area; one setting for all pictures. 'Best person' takes for each "
    "picture the person whose drawing is covered best; 'mean over people' is the "
    "usual figure. Settings chosen by the mean over people on the choosing half"
)
HUNGARIAN: Final = (
    "class-free segments matched to the true classes of each picture one to one "
    "(Hungarian, by overlap), unmatched segments wrong everywhere; then IoU of every "
    "class over the pixels of all pictures, mean over the classes present"
)


class RegionProtocol(Protocol):
    """Whole pictures cut into regions, without classes or prompts."""

    name = "regions"
    kinds = ("regions", "classes")
    size = 518

    def all_methods(self, depth: int) -> list[Method]:
        return region_methods(depth)

    def scored(
        self, method: Method, subject: Subject, truth: Int[Tensor, "people h w"]
    ) -> Record:
        """Scores of one method; where it fails, those of one single region."""
        one = torch.zeros_like(truth[0])
        labels, failed = attempted(lambda: method.run(subject), one)
        covers = [metrics.covering(labels, person) for person in truth]
        return {
            "mean": sum(covers) / len(covers),
            "best": max(covers),
            "segments": len(labels.unique()),
            "classes": class_counts(labels, truth[0]) if len(truth) == 1 else {},
            **failed,
        }

    def tables(self, records: list[Record], marked: set[str]) -> list[Table]:
        choosing, reporting = halves(records, marked)
        best = best_settings(self.methods, choosing or reporting, covering_score)
        tables = [covering_table(best, choosing, reporting)]
        if has_classes(records):
            best = best_settings(self.methods, choosing or reporting, class_score)
            tables.append(class_table(best, choosing, reporting))
        return tables

    def figures(self, records: list[Record], marked: set[str]) -> "dict[str, Figure]":
        choosing, reporting = halves(records, marked)
        best = best_settings(self.methods, choosing or reporting, covering_score)
        shown = reporting or choosing
        values = {m.name: [s["mean"] for s in of_method(shown, m.name)] for m in best}
        label = "covering, mean over people; reporting half, mean and 95 % interval"
        return {"": bars(values, label)}


def class_counts(
    labels: Int[Tensor, "height width"], truth: Int[Tensor, "height width"]
) -> dict[str, list[int]]:
    """Shared pixels, found pixels and true pixels of every class, segments matched."""
    renamed = metrics.matched_labels(labels, truth)
    scored = truth != VOID
    counts = {}
    for number in truth[scored].unique().tolist():
        found, true = (renamed == number) & scored, truth == number
        both = int((found & true).sum())
        counts[str(number)] = [both, int(found.sum()), int(true.sum())]
    return counts


def covering_score(scores: list[Record]) -> float:
    """What settings are chosen by."""
    return mean_of(scores, "mean")


def has_classes(records: list[Record]) -> bool:
    """Whether the labels were classes."""
    return any(s["classes"] for r in records for s in r["scores"].values())


def pooled_classes(scores: list[Record]) -> dict[str, list[int]]:
    """Counts of every class over all pictures."""
    total: dict[str, list[int]] = {}
    for score in scores:
        for name, counts in score["classes"].items():
            held = total.setdefault(name, [0, 0, 0])
            total[name] = [a + b for a, b in zip(held, counts, strict=True)]
    return total


def class_score(scores: list[Record]) -> float:
    """Class-mean mIoU over the pixels of all pictures."""
    ious = [
        both / (found + true - both)
        for both, found, true in pooled_classes(scores).values()
    ]
    return sum(ious) / len(ious)


def covering_table(
    best: list[Method], choosing: list[Record], reporting: list[Record]
) -> Table:
    """Chosen on one half, reported on the other."""
    rows = []
    for method in best:
        first = of_method(choosing, method.name)
        second = of_method(reporting, method.name) or first
        both = first + (second if reporting else [])
        low, high = interval([score["mean"] for score in second])
        rows.append(
            (
                method.name,
                covering_score(first) if first else None,
                f"{covering_score(second):.3f} [{low:.3f}, {high:.3f}]",
                mean_of(both, "mean"),
                mean_of(both, "best"),
                f"{mean_of(both, 'segments'):.1f}",
                failures(both),
            )
        )
    columns = (
        "method and chosen setting",
        "covering, mean over people, choosing half",
        "covering, mean over people, reporting half [95 %]",
        "covering, mean over people, all",
        "covering, best person, all",
        "segments",
        "failed",
    )
    note = f"{len(choosing)} pictures to choose on, {len(reporting)} to report on."
    return Table("Regions", f"{COVERING}.", columns, tuple(rows), (note,))


def class_table(
    best: list[Method], choosing: list[Record], reporting: list[Record]
) -> Table:
    """Matched classes, chosen on one half, reported on the other."""
    rows: list[tuple[Any, ...]] = []
    for method in best:
        first = of_method(choosing, method.name)
        second = of_method(reporting, method.name) or first
        pixels = pooled_classes(second).values()
        share = sum(c[0] for c in pixels) / sum(c[2] for c in pixels)
        rows.append(
            (
                method.name,
                class_score(first) if first else None,
                class_score(second),
                share,
                len(pixels),
            )
        )
    columns = (
        "method and chosen setting",
        "mIoU, class mean, choosing half",
        "mIoU, class mean, reporting half",
        "Acc, reporting half",
        "classes",
    )
    title = "Classes, matched in each picture"
    return Table(title, f"{HUNGARIAN}.", columns, tuple(rows))
