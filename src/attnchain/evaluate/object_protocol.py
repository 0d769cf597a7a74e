"""Main object against the rest, scored in three ways that share no column."""

from typing import TYPE_CHECKING, Any, Final

import torch
from jaxtyping import Int
from torch import Tensor

from attnchain.evaluate import metrics
from attnchain.evaluate.lines import Record
from attnchain.evaluate.method import Method
from attnchain.evaluate.object_methods import object_methods
from attnchain.evaluate.object_tables import object_figures, object_tables
from attnchain.evaluate.protocol import Protocol, attempted
from attnchain.evaluate.subject import Subject
from attnchain.evaluate.table import Table
from attnchain.maps import enlarge, otsu_threshold, unit_range
from attnchain.vision.borders import object_mask

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SQUARE: Final = (224, 224)


class ObjectProtocol(Protocol):
    """Main object against the rest; no prompt, no click, no training."""

    name = "foreground"
    kinds = ("object",)
    size = 700

    def all_methods(self, depth: int) -> list[Method]:
        return object_methods(depth)

    def scored(
        self, method: Method, subject: Subject, truth: Int[Tensor, "people h w"]
    ) -> Record:
        """Scores of one method; where it fails, those of an empty map."""
        empty = torch.zeros(subject.attention.grid.n_patches)
        values, failed = attempted(lambda: method.run(subject), empty)
        return object_scores(values, subject, truth[0]) | failed

    def tables(self, records: list[Record], marked: set[str]) -> list[Table]:
        return object_tables(self.methods, records, marked)

    def figures(self, records: list[Record], marked: set[str]) -> "dict[str, Figure]":
        return object_figures(self.methods, records, marked)


def object_scores(
    values: Tensor, subject: Subject, truth: Int[Tensor, "height width"]
) -> dict[str, Any]:
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
    return torch.nn.functional.interpolate(whole, SQUARE)[0, 0].to(values.dtype)


def _counts(mask: Tensor, truth: Tensor) -> list[list[int]]:
    return metrics.confusion(mask.long(), truth, count=2).tolist()
