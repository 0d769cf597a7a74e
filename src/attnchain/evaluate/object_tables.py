"""Tables and figures of the main-object protocols."""

from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from attnchain.evaluate import metrics
from attnchain.evaluate.charts import bars, curves
from attnchain.evaluate.choosing import (
    best_settings,
    failures,
    halves,
    interval,
    mean_of,
    of_method,
)
from attnchain.evaluate.lines import Record
from attnchain.evaluate.method import Method, named
from attnchain.evaluate.object_methods import MOST_BOUNCES
from attnchain.evaluate.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ONE_REGION: Final = (
    "foreground, one region: the map of patches enlarged bilinearly to the picture, "
    "Otsu's threshold, and of the regions above it the one that carries most of the "
    "map; again above the next threshold where it reaches from the left edge to the "
    "right one; its border walked to the edges of the picture. The same for every "
    "method. IoU is the mean over pictures; mIoU is over the pixels of all pictures. "
    "Settings chosen by class-mean mIoU on the choosing half"
)
ALL_REGIONS: Final = (
    "foreground, all regions: the map enlarged as above, every region above Otsu's "
    "threshold, no border walk; max-F has beta² = 0.3 and is the largest value of the "
    "mean F curve over 51 thresholds of the map. All pictures"
)
CONCEPTS: Final = (
    "ConceptAttention's scoring (not its model, prompts or square resizing): map "
    "scaled to [0, 1], resized to 224 x 224 (nearest), mask where above its mean; Acc "
    "and both mIoU over the pixels of all pictures; mAP of the stacked (1 - score, "
    "score) maps, mean over pictures"
)


def object_tables(
    methods: list[Method], records: list[Record], marked: set[str]
) -> list[Table]:
    """All tables of a run.

    Args:
        methods: The methods that ran.
        records: One for each picture.
        marked: Names of the half to choose on.
    """
    choosing, reporting = halves(records, marked)
    best = _best(methods, choosing or reporting)
    tables = [one_region_table("Main object", best, choosing, reporting)]
    below = below_last(methods)
    if below:
        low = _best(below, choosing or reporting)
        title = "Main object without the last layer"
        tables.append(one_region_table(title, low, choosing, reporting))
    return [
        *tables,
        all_regions_table(best, records),
        concepts_table(best, records),
        *ablation_tables(methods, records),
    ]


def below_last(methods: list[Method]) -> list[Method]:
    """The methods that read no last layer."""
    last = max(layer for method in methods for layer in method.layers)
    return [method for method in methods if method.layers[-1] < last]


def _best(methods: list[Method], records: list[Record]) -> list[Method]:
    return best_settings(methods, records, one_region_miou)


def _pixels(scores: list[Record], field: str) -> Tensor:
    return torch.tensor([score[field] for score in scores]).sum(0)


def one_region_miou(scores: list[Record]) -> float:
    """What settings are chosen by: class-mean mIoU, one region."""
    return metrics.class_mean_miou(_pixels(scores, "one_region"))


def one_region_table(
    title: str, best: list[Method], choosing: list[Record], reporting: list[Record]
) -> Table:
    """Chosen on one half, reported on the other."""
    rows = []
    for method in best:
        first = of_method(choosing, method.name)
        second = of_method(reporting, method.name) or first
        ious = [score["one_region_iou"] for score in second]
        low, high = interval(ious)
        pixels = _pixels(second, "one_region")
        rows.append(
            (
                setting(method),
                one_region_miou(first) if first else None,
                metrics.class_mean_miou(pixels),
                metrics.pooled_miou(pixels),
                metrics.accuracy(pixels),
                mean_of(first, "one_region_iou") if first else None,
                f"{sum(ious) / len(ious):.3f} [{low:.3f}, {high:.3f}]",
                mean_of(first + second, "one_region_iou"),
                failures(first + second),
            )
        )
    columns = (
        "method and chosen setting",
        "mIoU, class mean, choosing half",
        "mIoU, class mean, reporting half",
        "mIoU, pooled Acc/(2-Acc), reporting half",
        "Acc, reporting half",
        "foreground IoU, choosing half",
        "foreground IoU, reporting half [95 %]",
        "foreground IoU, all",
        "failed",
    )
    note = f"{len(choosing)} pictures to choose on, {len(reporting)} to report on."
    return Table(title, f"{ONE_REGION}.", columns, tuple(rows), (note,))


def setting(method: Method) -> str:
    """The method with its setting and layers, in a few words."""
    if method.family == "default":
        return f"**default** ({named(method.layers)})"
    return method.name


def all_regions_table(best: list[Method], records: list[Record]) -> Table:
    """Every region counts; and the saliency papers' max-F."""
    rows = []
    for method in best:
        scores = of_method(records, method.name)
        pixels = _pixels(scores, "all_regions")
        curve = torch.tensor([score["f"] for score in scores]).mean(0)
        rows.append(
            (
                setting(method),
                mean_of(scores, "all_regions_iou"),
                metrics.class_mean_miou(pixels),
                float(curve.max()),
            )
        )
    columns = ("method and chosen setting", "foreground IoU", "mIoU, class mean")
    columns = (*columns, "max-F")
    title = "Main object, all regions"
    return Table(title, f"{ALL_REGIONS}.", columns, tuple(rows))


def concepts_table(best: list[Method], records: list[Record]) -> Table:
    """Scored as ConceptAttention scores."""
    rows = []
    for method in best:
        scores = of_method(records, method.name)
        pixels = _pixels(scores, "concepts")
        rows.append(
            (
                setting(method),
                metrics.accuracy(pixels),
                metrics.class_mean_miou(pixels),
                metrics.pooled_miou(pixels),
                mean_of(scores, "ap"),
            )
        )
    columns = ("method and chosen setting", "Acc", "mIoU, class mean")
    columns = (*columns, "mIoU, pooled Acc/(2-Acc)", "mAP")
    title = "Main object, scored as ConceptAttention does"
    return Table(title, f"{CONCEPTS}.", columns, tuple(rows))


def ablation(
    methods: list[Method], records: list[Record]
) -> dict[tuple[str, str], dict[int, float]]:
    """Mean IoU by (weights, layers) and number of bounces, all pictures."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for method in methods:
        name, _, bounces = method.name.rpartition(", n = ")
        if not name or "gated" in method.family:
            continue
        key = (method.family, named(method.layers))
        scores = of_method(records, method.name)
        found.setdefault(key, {})[int(bounces)] = mean_of(scores, "one_region_iou")
    return found


def ablation_tables(methods: list[Method], records: list[Record]) -> list[Table]:
    """Bounces, weights and layers, one row for each pair of weights and layers."""
    found = ablation(methods, records)
    rows = tuple(
        (f"{family}, layers {layers}", *(values.get(n) for n in _NUMBERS))
        for (family, layers), values in found.items()
    )
    columns = ("foreground IoU by number of bounces", *map(str, _NUMBERS))
    title = "Ablation: bounces, λ₂ weights, layers"
    protocol = f"{ONE_REGION.partition('. ')[0]}. Mean over all pictures."
    return [Table(title, protocol, columns, rows)] if rows else []


_NUMBERS: Final = range(1, MOST_BOUNCES + 1)


def object_figures(
    methods: list[Method], records: list[Record], marked: set[str]
) -> "dict[str, Figure]":
    """Methods compared; and the ablation."""
    choosing, reporting = halves(records, marked)
    best = _best(methods, choosing or reporting)
    values = {
        m.name: [s["one_region_iou"] for s in of_method(reporting or choosing, m.name)]
        for m in best
    }
    label = "foreground IoU, one region; reporting half, mean and 95 % interval"
    figures = {"": bars(values, label)}
    found = ablation(methods, records)
    if found:
        lines = {
            f"{family.partition(', ')[2]}, {layers}": points
            for (family, layers), points in found.items()
        }
        label = "foreground IoU, one region, all pictures"
        figures["-ablation"] = curves(lines, "bounces", label, paired=True)
    return figures
