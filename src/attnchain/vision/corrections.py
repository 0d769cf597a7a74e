"""One object that marks correct, pixel by pixel, each where it was made."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from jaxtyping import Bool, Float

from attnchain.maps import enlarge, regions_at
from attnchain.models import to_rgb
from attnchain.operators import AbstractTransition
from attnchain.vision.borders import absorbed, colour_odds, links

if TYPE_CHECKING:
    from PIL.Image import Image

    from attnchain.capturing import TokenGrid

Pixel = tuple[int, int]
Mask = Bool[np.ndarray, "height width"]

LONGEST: Final = 400
"""Pictures with a longer side are walked on at this size."""
_OF_SCORE: Final = 3.0
_OF_COLOUR: Final = 0.5
_OF_CHAIN: Final = 1.0
_MOST: Final = 4.0
"""Colours say no more than this, as a logarithm of odds."""
_HELD: Final = 0.8
"""Share of the distance to the border within which a correction is certain."""
_OF_DISC: Final = 1.0
_OF_OBJECT: Final = 0.03
"""Further out it may change so much of what it changes within, and of the object."""
_SURE: Final = 1e-3


@dataclass(frozen=True, eq=False)
class Canvas:
    """A picture at the size it is walked on, and its patches.

    Attributes:
        colours: Its pixels.
        grid: Rows and columns of the patches.
        chain: A symmetric chain over the patches.
    """

    colours: np.ndarray
    grid: "TokenGrid"
    chain: AbstractTransition

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of pixels."""
        height, width = self.colours.shape[:2]
        return height, width

    def enlarged(self, patches: Float[torch.Tensor, " n"]) -> np.ndarray:
        """Values of patches at the size of the canvas."""
        height, width = self.shape
        large = enlarge(self.grid.to_map(patches), width=width, height=height)
        return large.double().cpu().numpy()

    def within(self, pixels: Sequence[Pixel], picture: "Image") -> list[Pixel]:
        """(row, column) here of (x, y) in the picture, each once."""
        height, width = self.shape
        down, across = height / picture.height, width / picture.width
        found = ((int((y + 0.5) * down), int((x + 0.5) * across)) for x, y in pixels)
        return list(dict.fromkeys(found))


def canvas(picture: "Image", grid: "TokenGrid", chain: AbstractTransition) -> Canvas:
    """A picture, smaller where it is large.

    Args:
        picture: The picture.
        grid: Rows and columns of its patches.
        chain: A symmetric chain over them.
    """
    picture, scale = to_rgb(picture), min(1.0, LONGEST / max(picture.size))
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return Canvas(np.asarray(picture.resize((width, height))), grid, chain)


@dataclass(frozen=True, eq=False)
class Found:
    """The object so far.

    Attributes:
        score: Positive on the object.
        held: Pixels that marks decided.
        on: Which of them are on the object.
        marks: Marked pixels, and whether they are on the object.
        boxed: A box proposed it: it may be several regions.
        reach: No click reaches further, in pixels.
    """

    score: Float[np.ndarray, "height width"]
    held: Mask
    on: Mask
    marks: tuple[tuple[Pixel, bool], ...] = ()
    boxed: bool = False
    reach: float = np.inf

    @property
    def mask(self) -> Mask:
        """The pixels of the object."""
        return self.score > 0


def proposed(
    canvas: Canvas, odds: np.ndarray, pixels: Sequence[Pixel], around: Mask
) -> Found:
    """The object that the first mark proposes.

    Args:
        canvas: Where it is looked for.
        odds: Logarithm of odds of the object, by what the patches attend to.
        pixels: The pixels marked; none where the mark is a box.
        around: Where the object may be.

    Returns:
        `Found`, one region where pixels are marked.
    """
    on = np.zeros(canvas.shape, dtype=bool)
    for pixel in pixels:
        on[pixel] = True
    mask = ((odds > 0) & around) | on
    said = _OF_SCORE * odds + _OF_CHAIN * _chain_odds(canvas, mask)
    score = _walk(canvas, said, mask, ~around | on, on)
    marks = tuple((pixel, True) for pixel in pixels)
    return _alone(Found(score, on, on, marks, boxed=not pixels))


def corrected(
    canvas: Canvas,
    found: Found,
    odds: np.ndarray,
    pixels: Sequence[Pixel],
    *,
    sign: bool,
) -> Found:
    r"""The object after one mark more: changed where the mark lies, or not at all.

    A mark reaches as far as the border it should have been beyond. Pixels within 0.8 of
    that whose patches agree are as marked; a walk over the pixels decides about the
    others. Of what it turns to the side of the mark, the regions that hold the mark are
    changed.

    A stroke says how far the error goes, a click does not. It reaches half the way to
    the nearest mark of the other side at most, and no further than the clicks before
    it: the largest error is clicked first. Out of reach it changes no more pixels, the
    nearest ones, than within it and 0.03 of the object. Regions that this cuts off from
    all marks go, too, if that is no more in all.

    Args:
        canvas: Where it is looked for.
        found: The object so far.
        odds: Logarithm of odds of the object, by what the marked patches attend to.
        pixels: The pixels marked: one is a click, more are a stroke.
        sign: On the object, or off it.

    Returns:
        `Found`; where the pixels were right already, the same object.
    """
    differs, click = found.mask != sign, len(pixels) == 1
    wrong, depth = [pixel for pixel in pixels if differs[pixel]], _depth(differs)
    radii = [float(depth[pixel]) for pixel in wrong]
    if click:
        radii = [min(radius, _reach(found, pixels[0], sign)) for radius in radii]
    marked = _discs(canvas.shape, pixels, [0.0] * len(pixels))
    certain = _discs(canvas.shape, wrong, [_HELD * radius for radius in radii])
    certain = certain & ((odds > 0) == sign) | marked
    held, on = found.held | certain, np.where(certain, sign, found.on)
    marks = (*found.marks, *((pixel, sign) for pixel in pixels))
    after = replace(found, held=held, on=on, marks=marks)
    if not wrong:
        return after
    mask = np.where(held, on, found.mask)
    walked = _walk(canvas, _OF_SCORE * odds, mask, held, on)
    turned = _connected(differs & ((walked > 0) == sign), wrong)
    if click:
        return _clicked(found, after, walked, turned, radii[0])
    return _alone(replace(after, score=np.where(turned, walked, found.score)))


def _reach(found: Found, pixel: Pixel, sign: bool) -> float:
    """How far a click may reach, by the marks before it."""
    opposite = [other for other, on in found.marks if on != sign]
    half = min((math.dist(pixel, other) / 2 for other in opposite), default=np.inf)
    return min(half, found.reach)


def _clicked(
    found: Found, after: Found, walked: np.ndarray, turned: Mask, reach: float
) -> Found:
    """The pixels turned by the latest mark, a click, and no more than it may."""
    pixel = after.marks[-1][0]
    away = _depth(~_discs(turned.shape, [pixel], [0.0]))
    within = (turned & (away <= reach)).sum()
    most = int((1 + _OF_DISC) * within + _OF_OBJECT * found.mask.sum())
    if turned.sum() > most:
        limit = np.partition(away[turned], most)[most]
        turned = _connected(turned & (away < limit), [pixel])
    score = np.where(turned, walked, found.score)
    after = replace(after, score=score, reach=reach)
    alone = _alone(after)
    return alone if (alone.mask != found.mask).sum() <= most else after


def _walk(
    canvas: Canvas, odds: np.ndarray, mask: Mask, held: Mask, on: Mask
) -> np.ndarray:
    """Probability that a walk from each pixel ends in the object, less a half.

    It ends where marks decided; or, with a weight at every step, by the odds and how
    frequent the colour it stands on is in the mask so far.
    """
    if mask.any() and not mask.all():
        every = np.ones_like(mask)
        share = colour_odds(canvas.colours, mask, ~mask, every).reshape(mask.shape)
        colour = np.log(share / (1 - share)).clip(-_MOST, _MOST)
        odds = odds + _OF_COLOUR * colour
    prior = np.where(held, on, 1 / (1 + np.exp(-odds)))
    free = ~held
    walked = prior.copy()
    if free.any():
        walked[free] = absorbed(
            links(canvas.colours, free), free, held & on, prior[free]
        )
    return walked - 0.5


def _chain_odds(canvas: Canvas, mask: Mask) -> np.ndarray:
    """How much likelier than a random patch each one is to step into the mask."""
    size = (canvas.grid.rows, canvas.grid.columns)
    soft = torch.from_numpy(mask.astype(np.float32))[None, None]
    shares = torch.nn.functional.adaptive_avg_pool2d(soft, size).flatten()
    steps = canvas.chain.pull(shares).clamp(_SURE, 1 - _SURE)
    return canvas.enlarged(
        steps.logit() - shares.mean().clamp(_SURE, 1 - _SURE).logit()
    )


def _alone(found: Found) -> Found:
    """Without the regions that hold no mark; all of them under a box."""
    seeds = [pixel for pixel, on in found.marks if on]
    if found.boxed:
        return found
    mask = _connected(found.mask, seeds)
    return replace(found, score=np.where(mask, found.score, -np.abs(found.score)))


def _connected(mask: Mask, pixels: Sequence[Pixel]) -> Mask:
    """The regions of a mask that hold one of some pixels."""
    return regions_at(torch.from_numpy(mask), pixels).numpy()


def _depth(region: Mask) -> np.ndarray:
    """Distance of every pixel of a region to its outside."""
    from scipy.ndimage import distance_transform_edt

    if region.all():
        return np.full(region.shape, float(max(region.shape)))
    return np.asarray(distance_transform_edt(region))


def _discs(
    shape: tuple[int, int], centres: Sequence[Pixel], radii: Sequence[float]
) -> Mask:
    """Pixels no further from a centre than its radius."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    found = np.zeros(shape, dtype=bool)
    for (row, column), radius in zip(centres, radii, strict=True):
        found |= (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
    return found
