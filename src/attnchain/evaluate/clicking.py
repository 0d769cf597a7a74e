"""A person who clicks where the mask is most wrong, played by the labels."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attnchain.evaluate.metrics import iou
from attnchain.evaluate.subject import Layers, Subject
from attnchain.maps import enlarge, otsu_threshold, unit_range
from attnchain.vision.clicks import Clicks, ClickSegmentation

Pixel = tuple[int, int]
Nearness = Callable[[Subject, int], Float[Tensor, " n"]]
Masker = Callable[["Subject", "Clicked"], Bool[Tensor, "height width"]]
MOST_CLICKS: Final = 20


@dataclass(frozen=True)
class Clicked:
    """Clicks so far, as (row, column) in pixels of the picture."""

    positive: tuple[Pixel, ...] = field(default=())
    negative: tuple[Pixel, ...] = field(default=())

    def with_next(
        self,
        mask: Bool[Tensor, "height width"],
        truth: Int[Tensor, "height width"],
    ) -> "Clicked | None":
        """One click more, at the most interior pixel that is wrong.

        Object pixels that are missed ask for a positive click, other pixels that are
        taken for a negative one; of the two the one deeper inside its region.

        Args:
            mask: The mask so far.
            truth: 0 or 1, -1 where not scored.

        Returns:
            None where nothing is wrong that has not been clicked.

        Sources:
            The protocol of Sofiiuk et al., arXiv 2102.06583, and its predecessors.
        """
        missed, depth_missed = self._deepest((truth == 1) & ~mask)
        taken, depth_taken = self._deepest((truth == 0) & mask)
        if max(depth_missed, depth_taken) == 0:
            return None
        if depth_missed > depth_taken:
            return replace(self, positive=(*self.positive, missed))
        return replace(self, negative=(*self.negative, taken))

    def _deepest(self, region: Bool[Tensor, "height width"]) -> tuple[Pixel, float]:
        from scipy.ndimage import distance_transform_edt

        padded = np.pad(region.numpy(), 1)
        depth = np.asarray(distance_transform_edt(padded))[1:-1, 1:-1].copy()
        for row, column in self.positive + self.negative:
            depth[row, column] = 0
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        return (int(row), int(column)), float(depth[row, column])


def in_session(
    subject: Subject,
    clicks: Clicked,
    *,
    layers: Layers,
    cut: Callable[[Clicks], ClickSegmentation] = Clicks.segment,
) -> Bool[Tensor, "height width"]:
    """The object by clicks as `attnchain.vision.clicks` finds it."""
    session = Clicks(subject.part(layers))
    for row, column in clicks.positive:
        session = session.add(column, row)
    for row, column in clicks.negative:
        session = session.add(column, row, positive=False)
    return cut(session).mask


def by_nearness(
    subject: Subject, clicks: Clicked, *, nearness: Nearness
) -> Bool[Tensor, "height width"]:
    """The object by clicks: near a positive one, nearer than to any negative one.

    The nearness to positive clicks is the largest over them, each map scaled to
    [0, 1]; it must reach Otsu's threshold, or what the clicks themselves have. Only
    regions with a positive click are kept.

    Args:
        subject: The picture.
        clicks: At least one positive click.
        nearness: From a patch to its nearness to all patches.
    """
    plus = _nearest(subject, clicks.positive, nearness)
    level = min([otsu_threshold(plus), *(float(plus[p]) for p in clicks.positive)])
    mask = plus >= level
    if clicks.negative:
        mask &= plus > _nearest(subject, clicks.negative, nearness)
    for pixel in clicks.positive:
        mask[pixel] = True
    return _regions_with(mask, clicks.positive)


def _nearest(
    subject: Subject, pixels: tuple[Pixel, ...], nearness: Nearness
) -> Float[Tensor, "height width"]:
    attention = subject.attention
    maps = []
    for row, column in pixels:
        patch = attention.grid.patch_at(column, row, **attention.size)
        values = nearness(subject, patch).float()
        large = enlarge(attention.grid.to_map(values), **attention.size)
        maps.append(unit_range(large))
    return torch.stack(maps).amax(0)


def _regions_with(mask: Tensor, pixels: tuple[Pixel, ...]) -> Tensor:
    from scipy import ndimage

    labels = torch.from_numpy(ndimage.label(mask.numpy())[0])  # pyright: ignore
    wanted = torch.stack([labels[pixel] for pixel in pixels])
    return torch.isin(labels, wanted)


def click_through(
    subject: Subject,
    truth: Int[Tensor, "height width"],
    masker: Masker,
    *,
    enough: float = 0.9,
) -> list[float]:
    """IoU after each click, until it is enough or 20 clicks are made.

    Args:
        subject: The picture.
        truth: 0 or 1, -1 where not scored.
        masker: The method.
        enough: IoU at which the person stops.

    Returns:
        At most 20 values.
    """
    mask = torch.zeros_like(truth, dtype=torch.bool)
    clicks: Clicked | None = Clicked()
    reached: list[float] = []
    while len(reached) < MOST_CLICKS and (not reached or reached[-1] < enough):
        clicks = clicks.with_next(mask, truth)
        if clicks is None:
            break
        mask = masker(subject, clicks)
        reached.append(iou(mask, truth))
    return reached


def clicks_needed(reached: list[float], level: float) -> int:
    """Number of clicks until an IoU is reached; 20 where it never is (NoC).

    Example:
        >>> clicks_needed([0.5, 0.86, 0.91], 0.85), clicks_needed([0.5], 0.85)
        (2, 20)
    """
    for number, value in enumerate(reached, start=1):
        if value >= level:
            return number
    return MOST_CLICKS
