"""Main object against the rest, scored in three ways that share no column."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import torch
from jaxtyping import Int
from torch import Tensor

from attnchain.evaluate import baselines, metrics
from attnchain.evaluate.datasets import Truth
from attnchain.evaluate.method import Method, late, named
from attnchain.evaluate.protocol import Protocol, attempted
from attnchain.evaluate.report import (
    FAILED,
    Column,
    Record,
    Results,
    Table,
    curves,
    each,
    mean_of,
)
from attnchain.evaluate.subject import Layers, Subject, Weights
from attnchain.maps import enlarge, otsu_threshold, unit_range
from attnchain.vision import object_mask

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ONE_REGION: Final = (
    "foreground, one region: the map of patches enlarged bilinearly to the picture, "
    "Otsu's threshold, and of the regions above it the one that carries most of the "
    "map; again above the next threshold where it reaches from the left edge to the "
    "right one; its border walked to the edges of the picture. The same for every "
    "method"
)
AVERAGES: Final = (
    "IoU is the mean over pictures; mIoU is over the pixels of all pictures. Settings "
    "chosen by class-mean mIoU on the choosing half"
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
MOST_BOUNCES: Final = 10
_SQUARE: Final = (224, 224)
_WORDS: Final[dict[Weights, str]] = {
    "lambda2": "λ₂ weights",
    "uniform": "uniform heads",
}


class ForegroundProtocol(Protocol):
    """Main object against the rest; no prompt and no click."""

    name = "foreground"
    kinds = ("object",)
    size = 700

    def all_methods(self, depth: int) -> list[Method]:
        return foreground_methods(depth)

    def scored(self, method: Method, subject: Subject, truth: Truth) -> Record:
        """Scores of one method; where it fails, those of an empty map."""
        empty = torch.zeros(subject.attention.grid.n_patches)
        values, failed = attempted(lambda: method.run(subject), empty)
        return map_scores(values, subject, truth[0]) | failed

    def tables(self, results: Results) -> list[Table]:
        best = results.best(self.methods, one_region_miou)
        protocol = f"{ONE_REGION}. {AVERAGES}"
        tables = [results.table("Main object", protocol, best, _ONE_REGION)]
        below = below_last(self.methods)
        if below:
            title = "Main object without the last layer"
            low = results.best(below, one_region_miou)
            tables.append(results.table(title, protocol, low, _ONE_REGION))
        title = "Main object, all regions"
        tables.append(results.table(title, ALL_REGIONS, best, _ALL_REGIONS))
        title = "Main object, scored as ConceptAttention does"
        tables.append(results.table(title, CONCEPTS, best, _CONCEPTS))
        return [*tables, *_ablation_tables(ablation(self.methods, results))]

    def figures(self, results: Results) -> "dict[str, Figure]":
        best = results.best(self.methods, one_region_miou)
        label = "foreground IoU, one region"
        figures = {"": results.bars(best, label, each("one_region_iou"))}
        found = ablation(self.methods, results)
        if found:
            lines = {
                f"{_WORDS[weights]}, {named(layers)}": points
                for (weights, layers), points in found.items()
            }
            label = f"{label}, all pictures"
            figures["-ablation"] = curves(lines, "bounces", label, paired=True)
        return figures


def foreground_methods(depth: int) -> list[Method]:
    """All methods and settings for a model with that many layers."""
    two, gate = late(depth, 2), max(depth - 2, 0)
    with_last = list(dict.fromkeys(late(depth, k) for k in (1, 2, 3)))
    below = list(dict.fromkeys(late(depth, k, skip=1) for k in (1, 2) if depth > 1))
    last = late(depth, 1)
    methods = [
        Method("default", last, baselines.default_map, own=True),
        Method("chain and features, no probe", last, baselines.untrained_map),
        Method("linear probe on masks alone", last, baselines.probed),
    ]
    for layers in (*with_last, *below):
        methods += _bounces(layers, MOST_BOUNCES if layers == two else 3)
    for layers in (*with_last[1:], *below):
        methods += _gated_bounces(layers, gate)
        methods += _attention(layers)
    for layers in (*with_last[1:2], *below[:1]):
        methods += _spectral(layers, gate)
    for layer in range(max(depth - 4, 0), depth):
        methods += _of_one_layer(layer)
    every = tuple(range(depth))
    return [*methods, Method("attention rollout", every, baselines.rollout)]


def _bounces(layers: Layers, most: int) -> Iterator[Method]:
    for weights, words in _WORDS.items():
        for n in range(1, most + 1):
            yield Method(
                f"multi-bounce, {words}",
                layers,
                baselines.bounced,
                {"weights": weights, "bounces": n},
                f"{named(layers)}, n = {n}",
            )


def _gated_bounces(layers: Layers, features: int) -> Iterator[Method]:
    """Steps gated by the features that the last layer reads."""
    for n in (5, 10, 20):
        yield Method(
            "multi-bounce, gated by features",
            layers,
            baselines.gated_bounces,
            {"features": features, "bounces": n},
            f"{named(layers)}, n = {n}",
        )


def _spectral(layers: Layers, features: int) -> Iterator[Method]:
    family, run = "second right eigenvector", baselines.second_eigenvector
    for weights, words in _WORDS.items():
        setting = f"{named(layers)}, {words}"
        yield Method(family, layers, run, {"weights": weights}, setting)
    family, run = f"{family}, gated by features", baselines.gated_eigenvector
    yield Method(family, layers, run, {"features": features}, named(layers))


def _attention(layers: Layers) -> Iterator[Method]:
    at = named(layers)
    yield Method("TokenRank, incoming", layers, baselines.ranked, setting=at)
    yield Method("column sum", layers, baselines.column_sum, setting=at)
    for kind, column in (("row", False), ("column", True)):
        family, settings = f"single bounce, {kind} select", {"column": column}
        yield Method(family, layers, baselines.selected, settings, at)


def _of_one_layer(layer: int) -> Iterator[Method]:
    at, layers = str(layer), (layer,)
    family = "class-token attention"
    yield Method(family, layers, baselines.class_attention, setting=at)
    cut: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
        "TokenCut (features)": (baselines.cut_by_paper, {"of_keys": False}),
        "TokenCut (keys)": (baselines.cut_by_paper, {"of_keys": True}),
        "normalised cut, class-token sign, Otsu": (baselines.cut_signed, {}),
    }
    for family, (run, settings) in cut.items():
        for words, level in (("0.2", 0.2), ("median", None)):
            chosen = {**settings, "threshold": level}
            yield Method(family, layers, run, chosen, f"{at}, cosine > {words}")
    family = "recursive cut (DiffCut's)"
    yield Method(family, layers, baselines.recursive_parts, setting=at)
    for k in (2, 4):
        family, setting = "k-means on features", f"{at}, k = {k}"
        yield Method(family, layers, baselines.clustered, {"count": k}, setting)


def map_scores(
    values: Tensor, subject: Subject, truth: Int[Tensor, "height width"]
) -> Record:
    """Scores of one map: patches `(n,)` or already pixels `(height, width)`.

    Counts of pixels are kept rather than ratios, so that a data set can be pooled.
    """
    attention = subject.attention
    if values.ndim == 1:
        values = enlarge(attention.grid.to_map(values), **attention.size)
    soft = unit_range(values.float())
    every = soft > otsu_threshold(soft)
    one = object_mask(soft, attention.picture, patches=attention.grid.n_patches)
    small, small_truth = _nearest(soft), _nearest(truth)
    return {
        "one_region": _counts(one, truth),
        "one_region_iou": metrics.iou(one, truth),
        "all_regions": _counts(every, truth),
        "all_regions_iou": metrics.iou(every, truth),
        "f": [round(float(f), 4) for f in metrics.f_curve(soft, truth)],
        "concepts": _counts(small > small.mean(), small_truth),
        "ap": metrics.stacked_average_precision(unit_range(small), small_truth),
    }


def _nearest(values: Tensor) -> Tensor:
    whole = values[None, None].float()
    return torch.nn.functional.interpolate(whole, _SQUARE)[0, 0].to(values.dtype)


def _counts(mask: Tensor, truth: Tensor) -> list[list[int]]:
    return metrics.confusion(mask.long(), truth, count=2).tolist()


def _pooled(
    ratio: Callable[[Tensor], float], name: str
) -> Callable[[list[Record]], float]:
    """A ratio over the pixels of all pictures."""
    return lambda scores: ratio(torch.tensor([s[name] for s in scores]).sum(0))


def _max_f(scores: list[Record]) -> float:
    return float(torch.tensor([score["f"] for score in scores]).mean(0).max())


one_region_miou: Final = _pooled(metrics.class_mean_miou, "one_region")
"""What settings are chosen by: class-mean mIoU, one region."""
_POOLED: Final = "mIoU, pooled Acc/(2-Acc)"
_ONE_REGION: Final = [
    Column("mIoU, class mean", "choosing half", one_region_miou),
    Column("mIoU, class mean", "reporting half", one_region_miou),
    Column(_POOLED, "reporting half", _pooled(metrics.pooled_miou, "one_region")),
    Column("Acc", "reporting half", _pooled(metrics.accuracy, "one_region")),
    Column("foreground IoU", "choosing half", mean_of("one_region_iou")),
    Column("foreground IoU", "reporting half", each("one_region_iou"), interval=True),
    Column("foreground IoU, all", "all", mean_of("one_region_iou")),
    FAILED,
]
_ALL_REGIONS: Final = [
    Column("foreground IoU", "all", mean_of("all_regions_iou")),
    Column("mIoU, class mean", "all", _pooled(metrics.class_mean_miou, "all_regions")),
    Column("max-F", "all", _max_f),
]
_CONCEPTS: Final = [
    Column("Acc", "all", _pooled(metrics.accuracy, "concepts")),
    Column("mIoU, class mean", "all", _pooled(metrics.class_mean_miou, "concepts")),
    Column(_POOLED, "all", _pooled(metrics.pooled_miou, "concepts")),
    Column("mAP", "all", mean_of("ap")),
]


def below_last(methods: list[Method]) -> list[Method]:
    """The methods that read no last layer."""
    last = max(layer for method in methods for layer in method.layers)
    return [method for method in methods if method.layers[-1] < last]


Ablation = dict[tuple[Weights, Layers], dict[int, float]]


def ablation(methods: list[Method], results: Results) -> Ablation:
    """Mean IoU by (weights, layers) and number of bounces, all pictures."""
    found: Ablation = {}
    iou = mean_of("one_region_iou")
    for method in methods:
        if method.function is baselines.bounced:
            key = (method.settings["weights"], method.layers)
            bounces = method.settings["bounces"]
            found.setdefault(key, {})[bounces] = iou(results.scores(method, "all"))
    return found


def _ablation_tables(found: Ablation) -> list[Table]:
    """Bounces, weights and layers, one row for each pair of weights and layers."""
    numbers = range(1, MOST_BOUNCES + 1)
    rows = tuple(
        (f"{_WORDS[weights]}, layers {named(layers)}", *map(values.get, numbers))
        for (weights, layers), values in found.items()
    )
    columns = ("foreground IoU by number of bounces", *map(str, numbers))
    title = "Ablation: bounces, λ₂ weights, layers"
    protocol = f"{ONE_REGION}. Mean over all pictures."
    return [Table(title, protocol, columns, rows)] if rows else []
