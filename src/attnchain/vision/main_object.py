"""The main object as chain and features see it, and how far the two can be trusted."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from attnchain.maps import object_region, unit_range
from attnchain.markov import spectrum
from attnchain.operators import DenseTransition
from attnchain.vision.borders import standing_out
from attnchain.vision.picture_attention import PictureAttention

_EXPONENT: Final = 10
_FAINTEST: Final = 1e-5
_FORGOTTEN: Final = 1e-3
"""A bounce that leaves less of all differences than this leaves rounding."""
_EVIDENCE: Final = (-2.29, 0.31, 2.58)
"""Constant, weight of contrast and of agreement: logistic, see docs/segmentation.md."""
_OF_PROBE: Final = (-2.12, 6.78)
"""Constant, and weight of the gap of objectness, where the model has a probe."""


@dataclass(frozen=True, eq=False)
class MainObject:
    """Where the main object is, by patches.

    Attributes:
        values: Large on the object.
        confidence: See `segment_object`.
        objects: Regions that stand out, the object among them; 0 where none does.
    """

    values: Float[Tensor, "rows columns"]
    confidence: float
    objects: int


def look_for_object(attention: PictureAttention, bounces: int) -> MainObject | None:
    """Looks for the main object with the class token, the chain and the features.

    Args:
        attention: What `read_attention` returned; it has a class token.
        bounces: Number of bounces n.

    Returns:
        `MainObject`; None where the class token sees the same everywhere.
    """
    view = attention.class_rows[-1].mean(0)
    chain, seen = attention.chain, _centred(view / view.max())
    views: list[Tensor] = []
    for _ in range(bounces):
        seen = None if seen is None else _centred(chain.pull(seen))
        if seen is None:
            return None
        views.append(seen)
    values, to_map = _levels(views[-1]), attention.grid.to_map
    if attention.objectness is not None:
        objectness = attention.objectness.to(values)
        return _probed(to_map(objectness * (1 + values)), to_map(objectness))
    if attention.features is not None:
        cut = feature_cut(attention.features).to(values)
        values = values + _levels(cut if cut @ views[-1] >= 0 else -cut)
    return _judged(to_map(values), to_map(views[0]))


def feature_cut(features: Float[Tensor, "n width"]) -> Float[Tensor, " n"]:
    r"""The slowest function of a walk to patches of like features.

    $Q_{ij} \propto s_{ij}^{10}$, with s the cosines scaled to [0, 1]: the vector that
    a normalised cut of these weights is read from. Its sign is arbitrary.

    Args:
        features: One row for each patch.

    Returns:
        Mean zero; all zero where the features are equal.

    Sources:
        Shi and Malik, Normalized cuts and image segmentation, 2000; the power is that
        of DiffCut, arXiv 2406.02842.
    """
    unit = normalize(features, dim=-1)
    likeness = unit_range(unit @ unit.T)
    if float(likeness.max()) == 0:
        return torch.zeros_like(features[:, 0])
    weights = likeness.clamp_min(_FAINTEST) ** _EXPONENT
    walk = DenseTransition(weights / weights.sum(1, keepdim=True))
    slowest = spectrum(walk, 2).basis[:, 1]
    return (slowest - slowest.mean()).to(features.dtype)


def _centred(values: Float[Tensor, " n"]) -> Float[Tensor, " n"] | None:
    """Values up to 1 less their mean, the largest 1; None where all are the same.

    A bounce moves no constant: with the mean taken off at every bounce P^n c keeps its
    digits, however many there are.
    """
    rest = values - values.mean()
    top = rest.abs().max()
    return rest / top if float(top) > _FORGOTTEN else None


def _levels(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """In standard deviations from the mean, halved and bounded to (-1, 1)."""
    spread = values.std(correction=0)
    if float(spread) == 0:
        return torch.zeros_like(values)
    return ((values - values.mean()) / (2 * spread)).tanh()


def _probed(values: Tensor, objectness: Tensor) -> MainObject:
    """The values with how much more object their region is than the rest."""

    def evidence(_soft: Tensor, region: Tensor) -> float:
        constant, weight = _OF_PROBE
        gap = objectness[region].mean() - objectness[~region].mean()
        return constant + weight * float(gap)

    return _weighed(values, evidence)


def _judged(values: Tensor, first: Tensor) -> MainObject:
    """The values with how far their region stands out, and is the first view's."""

    def evidence(soft: Tensor, region: Tensor) -> float:
        found = object_region(unit_range(first))
        agreement = float((region & found).sum() / (region | found).sum())
        constant, of_contrast, of_agreement = _EVIDENCE
        stands_out = of_contrast * contrast(soft, region)
        return constant + stands_out + of_agreement * agreement

    return _weighed(values, evidence)


def _weighed(values: Tensor, evidence: Callable[[Tensor, Tensor], float]) -> MainObject:
    """The values with the confidence that the evidence for their region gives."""
    soft = unit_range(values)
    region = object_region(soft)
    if not region.any() or region.all():
        return MainObject(values, 0.0, 0)
    confidence = 1 / (1 + math.exp(-evidence(soft, region)))
    return MainObject(values, confidence, len(standing_out(soft, region)))


def contrast(
    values: Float[Tensor, "rows columns"], region: Bool[Tensor, "rows columns"]
) -> float:
    """Mean inside less mean outside, in mean standard deviations of the two sides."""
    inside, outside = values[region], values[~region]
    spreads = [float(side.std(correction=0)) * len(side) for side in (inside, outside)]
    gap = float(inside.mean() - outside.mean())
    return gap / max(sum(spreads) / values.numel(), _FAINTEST)
