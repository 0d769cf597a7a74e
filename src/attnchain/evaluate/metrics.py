"""Scores of masks and maps against hand-made labels; torchmetrics where it has them."""

from types import ModuleType
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attnchain.evaluate.labels import VOID
from attnchain.optional import require

BETA2: Final = 0.3
LEVELS: Final = 51
UNMATCHED: Final = -2


def torchmetrics() -> ModuleType:
    """The classification part of torchmetrics.

    Raises:
        MissingExtraError: torchmetrics is not installed.
    """
    module = "torchmetrics.functional.classification"
    return require(module, extra="evaluate", feature="attnchain evaluate")


def confusion(
    labels: Int[Tensor, "..."], truth: Int[Tensor, "..."], *, count: int
) -> Int[Tensor, "count count"]:
    """Pixels by true class (rows) and predicted class (columns); void left out.

    Args:
        labels: Predicted classes in 0..count-1.
        truth: True classes, -1 where not scored.
        count: Number of classes.
    """
    return torchmetrics().multiclass_confusion_matrix(
        labels.flatten(), truth.flatten(), count, ignore_index=VOID, validate_args=False
    )


def class_ious(matrix: Int[Tensor, "count count"]) -> Float[Tensor, " count"]:
    """Intersection over union of every class; NaN for a class in neither.

    Example:
        >>> import torch
        >>> class_ious(torch.tensor([[6, 2], [0, 2]]))
        tensor([0.7500, 0.5000], dtype=torch.float64)
    """
    both = matrix.diagonal().double()
    either = matrix.sum(0) + matrix.sum(1) - both
    return both / torch.where(either > 0, either, torch.nan)


def class_mean_miou(matrix: Int[Tensor, "count count"]) -> float:
    """Mean of the classes' IoU over the pixels of a whole data set."""
    return float(class_ious(matrix).nanmean())


def accuracy(matrix: Int[Tensor, "count count"]) -> float:
    """Share of pixels with the right class, over a whole data set."""
    return float(matrix.diagonal().sum() / matrix.sum())


def pooled_miou(matrix: Int[Tensor, "count count"]) -> float:
    """Acc / (2 - Acc): all classes' intersections over all classes' unions.

    Some tables print it as mIoU. It says nothing beyond the accuracy.

    Example:
        >>> import torch
        >>> round(pooled_miou(torch.tensor([[6, 2], [0, 2]])), 4)
        0.6667
    """
    share = accuracy(matrix)
    return share / (2 - share)


def stacked_average_precision(
    scores: Float[Tensor, "..."], truth: Int[Tensor, "..."]
) -> float:
    """Average precision of the stacked maps (1 - score, score), ConceptAttention's.

    The background counts as much as the object.

    Args:
        scores: Values in [0, 1].
        truth: 0 or 1, -1 where not scored.
    """
    scored = truth.flatten() != VOID
    object_, score = truth.flatten()[scored], scores.flatten()[scored]
    both = torch.cat([1 - score, score])
    target = torch.cat([1 - object_, object_])
    return float(
        torchmetrics().binary_average_precision(both, target, validate_args=False)
    )


def f_curve(
    scores: Float[Tensor, "..."], truth: Int[Tensor, "..."]
) -> Float[Tensor, " levels"]:
    r"""F with $\beta^2 = 0.3$ of the masks score >= t, for 51 even t in [0, 1].

    The largest value of the mean curve over all pictures is the max-F of the saliency
    papers (they use 255 levels).

    Args:
        scores: Values in [0, 1].
        truth: 0 or 1, -1 where not scored.
    """
    scored = truth.flatten() != VOID
    object_, score = truth.flatten()[scored].bool(), scores.flatten()[scored]
    level = (score.double() * (LEVELS - 1) + 1e-9).long().clamp(0, LEVELS - 1)
    hits = torch.bincount(level[object_], minlength=LEVELS).flip(0).cumsum(0).flip(0)
    found = torch.bincount(level, minlength=LEVELS).flip(0).cumsum(0).flip(0)
    precision = hits / found.clamp_min(1)
    recall = hits / object_.sum().clamp_min(1)
    bottom = BETA2 * precision + recall
    return (1 + BETA2) * precision * recall / bottom.clamp_min(1e-12)


def covering(
    labels: Int[Tensor, "height width"], drawn: Int[Tensor, "height width"]
) -> float:
    r"""How well segments cover drawn regions, weighted by the regions' size.

    $\sum_R |R| \max_S \mathrm{IoU}(R, S) / \sum_R |R|$ over the drawn regions R.

    Args:
        labels: Number of the segment of each pixel.
        drawn: Number of the region of each pixel; -1 is not scored.

    Sources:
        Arbelaez et al., Contour detection and hierarchical image segmentation, 2011.
    """
    overlap = overlaps(labels, drawn)
    size = overlap.sum(1)
    union = size[:, None] + overlap.sum(0) - overlap
    best = (overlap / union.clip(min=1)).max(1)
    return float((size * best).sum() / size.sum())


def matched_labels(
    labels: Int[Tensor, "height width"], truth: Int[Tensor, "height width"]
) -> Int[Tensor, "height width"]:
    """Segments renamed to the classes they match best, one to one in this picture.

    The match maximises the sum of overlaps (Hungarian algorithm). Segments left over
    have no class: they are labelled -2, wrong wherever they are scored.

    Args:
        labels: Number of the segment of each pixel.
        truth: Class of each pixel; -1 is not scored.
    """
    from scipy.optimize import linear_sum_assignment

    classes = truth[truth != VOID].unique()
    segments = labels.unique()
    rows, columns = linear_sum_assignment(-overlaps(labels, truth))
    renamed = torch.full_like(labels, UNMATCHED)
    for row, column in zip(rows, columns, strict=True):
        renamed[labels == segments[column]] = classes[row]
    return renamed


def overlaps(
    labels: Int[Tensor, "..."], truth: Int[Tensor, "..."]
) -> Int[np.ndarray, "regions segments"]:
    """Shared pixels of every drawn region with every segment; void left out."""
    scored = (truth != VOID).flatten()
    _, region = truth.flatten()[scored].unique(return_inverse=True)
    names, segment = labels.flatten().unique(return_inverse=True)
    count = int(region.max()) + 1
    flat = region * len(names) + segment[scored]
    table = torch.bincount(flat, minlength=count * len(names))
    return table.view(count, len(names)).numpy()


def iou(
    mask: Bool[Tensor, "height width"], truth: Int[Tensor, "height width"]
) -> float:
    """Intersection over union of a mask and the object of one picture, void left out.

    Two empty ones agree: 1.
    """
    scored = truth != VOID
    found, object_ = mask & scored, truth == 1
    either = int((found | object_).sum())
    return int((found & object_).sum()) / either if either else 1.0
