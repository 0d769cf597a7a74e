"""Whole pictures cut into regions: covering, and classes matched one to one."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, get_args

import torch

from attnchain.evaluate import baselines, metrics
from attnchain.evaluate.baselines import Segments
from attnchain.evaluate.datasets import Truth
from attnchain.evaluate.labels import VOID
from attnchain.evaluate.method import Method, late, named
from attnchain.evaluate.protocol import Protocol, attempted
from attnchain.evaluate.report import (
    FAILED,
    Column,
    Record,
    Results,
    Table,
    each,
    mean_of,
)
from attnchain.evaluate.subject import Layers, Subject
from attnchain.methods import Anchors

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
COUNTS: Final = (3, 4, 5, 6, 8)


class RegionProtocol(Protocol):
    """Whole pictures cut into regions, without classes or prompts."""

    name = "regions"
    kinds = ("regions", "classes")
    size = 518

    def all_methods(self, depth: int) -> list[Method]:
        return region_methods(depth)

    def scored(self, method: Method, subject: Subject, truth: Truth) -> Record:
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

    def tables(self, results: Results) -> list[Table]:
        best = results.best(self.methods, mean_of("mean"))
        tables = [results.table("Regions", COVERING, best, _COVERING)]
        if has_classes(results.records):
            best = results.best(self.methods, class_score)
            title = "Classes, matched in each picture"
            tables.append(results.table(title, HUNGARIAN, best, _CLASSES))
        return tables

    def figures(self, results: Results) -> "dict[str, Figure]":
        best = results.best(self.methods, mean_of("mean"))
        return {"": results.bars(best, "covering, mean over people", each("mean"))}


def class_counts(labels: Segments, truth: Segments) -> dict[str, list[int]]:
    """Shared pixels, found pixels and true pixels of every class, segments matched."""
    renamed = metrics.matched_labels(labels, truth)
    scored = truth != VOID
    counts = {}
    for number in truth[scored].unique().tolist():
        found, true = (renamed == number) & scored, truth == number
        both = int((found & true).sum())
        counts[str(number)] = [both, int(found.sum()), int(true.sum())]
    return counts


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


def _right(scores: list[Record]) -> float:
    """Share of pixels with the right class."""
    counts = pooled_classes(scores).values()
    return sum(count[0] for count in counts) / sum(count[2] for count in counts)


def _segments(scores: list[Record]) -> str:
    return f"{mean_of('segments')(scores):.1f}"


_COVERING: Final = [
    Column("covering, mean over people", "choosing half", mean_of("mean")),
    Column("covering, mean over people", "reporting half", each("mean"), interval=True),
    Column("covering, mean over people, all", "all", mean_of("mean")),
    Column("covering, best person, all", "all", mean_of("best")),
    Column("segments", "all", _segments),
    FAILED,
]
_CLASSES: Final = [
    Column("mIoU, class mean", "choosing half", class_score),
    Column("mIoU, class mean", "reporting half", class_score),
    Column("Acc", "reporting half", _right),
    Column("classes", "reporting half", lambda scores: len(pooled_classes(scores))),
]


def region_methods(depth: int) -> list[Method]:
    """All methods and settings for a model with that many layers."""
    two, four, below = late(depth, 2), late(depth, 4), late(depth, 3, skip=1)
    layers_of: list[tuple[Callable[[Layers], Iterator[Method]], list[Layers]]] = [
        (_sets, [two, four, below]),
        (_merged, [two, four]),
        (_of_features, [(layer,) for layer in late(depth, 4)]),
    ]
    return [
        Method("default", two, baselines.default_segments, own=True),
        *(m for make, sets in layers_of for x in dict.fromkeys(sets) for m in make(x)),
        Method("control: one region", late(depth, 1), baselines.tiles, {"count": 1}),
        Method("control: nine tiles", late(depth, 1), baselines.tiles, {"count": 3}),
    ]


def _sets(layers: Layers) -> Iterator[Method]:
    at, run = named(layers), baselines.metastable_segments
    for m in COUNTS:
        family, setting = "metastable sets, fixed number", f"{at}, m = {m}"
        yield Method(family, layers, run, {"count": m}, setting)
    family = "metastable sets, number by the chain"
    yield Method(family, layers, run, {"count": None}, at)


def _merged(layers: Layers) -> Iterator[Method]:
    for anchors in get_args(Anchors):
        family = f"merged maps (DiffSeg's), anchors by {anchors.replace('_', ' ')}"
        for threshold in (0.5, 1.0, 1.5):
            settings = {"anchors": anchors, "threshold": threshold}
            setting = f"{named(layers)}, threshold {threshold}"
            yield Method(family, layers, baselines.merged_segments, settings, setting)


def _of_features(layers: Layers) -> Iterator[Method]:
    at = named(layers)
    for k in COUNTS:
        family, setting = "k-means on features", f"{at}, k = {k}"
        yield Method(
            family, layers, baselines.clustered_segments, {"count": k}, setting
        )
    for cost in (0.5, 0.7, 0.85):
        family, setting = "recursive cut (DiffCut's)", f"{at}, cost < {cost}"
        settings = {"most_cost": cost}
        yield Method(family, layers, baselines.recursive_segments, settings, setting)
