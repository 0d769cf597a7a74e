"""One object cut from a soft map, its border moved to that of the picture."""

from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attnchain.checks import check_positive
from attnchain.errors import ArgumentError, ConvergenceError, ShapeError
from attnchain.maps import (
    component,
    enlarge,
    object_region,
    otsu_threshold,
    weighed_regions,
)
from attnchain.models import to_rgb

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST: Final = 1024
"""Pictures with a longer side are walked on at this size."""
_SECOND: Final = 0.25
"""A region that carries this share of the object's weight is an object, too."""
_CONTRAST: Final = 5.0
_FAINT: Final = 1e-3
_CAUGHT: Final = 0.01
_LEVELS: Final = 12
_STEPS: Final = 1_000


def object_mask(
    soft: Float[Tensor, "height width"], picture: "Image", *, patches: int
) -> Bool[Tensor, "height width"]:
    """The mask of one object, from a map of patches enlarged to the picture.

    `object_region` finds the object; within half a patch of its border a walk over
    the pixels decides.

    Args:
        soft: A map in [0, 1] at picture size, large on the object.
        picture: The picture.
        patches: Number of patches the map was made of.

    Returns:
        One 4-connected region; empty where the map is the same everywhere.
    """
    return component(_sharpened(object_region(soft), picture, patches), soft)


def other_objects(
    soft: Float[Tensor, "height width"],
    mask: Bool[Tensor, "height width"],
    picture: "Image",
    *,
    patches: int,
) -> list[Bool[Tensor, "height width"]]:
    """What else stands out of the map that one object was cut from, each by itself.

    The regions of `standing_out` that do not touch the object, their borders moved to
    those of the picture.

    Args:
        soft: A map in [0, 1] at picture size, large on objects.
        mask: The object that `object_mask` found in it.
        picture: The picture.
        patches: Number of patches the map was made of.

    Returns:
        Masks that share no pixel with each other or the object, heaviest first.
    """
    taken, found = mask.clone(), []
    for region in standing_out(soft, mask):
        if (region & mask).any():
            continue
        walked = _sharpened(region, picture, patches) & ~taken
        if walked.any():
            found.append(component(walked, soft))
            taken |= found[-1]
    return found


def standing_out(
    soft: Float[Tensor, "height width"], region: Bool[Tensor, "height width"]
) -> list[Bool[Tensor, "height width"]]:
    """The regions above Otsu's threshold that weigh a quarter of the object's or more.

    Args:
        soft: A map in [0, 1], large on objects.
        region: The object.

    Returns:
        4-connected regions, heaviest first; one of them is the object, or holds it.
    """
    regions, weights = weighed_regions(soft > otsu_threshold(soft), soft)
    least = _SECOND * float(soft[region].double().sum())
    order = weights.argsort(descending=True, stable=True)
    heavy = order[weights[order] >= least]
    return [(regions == n + 1).to(soft.device) for n in heavy]


def _sharpened(
    region: Bool[Tensor, "height width"], picture: "Image", patches: int
) -> Bool[Tensor, "height width"]:
    """The region with its border decided within half a patch, if that is a pixel."""
    reach = (region.numel() / patches) ** 0.5 / 2
    if reach < 1:
        return region
    return border_walk(region, picture, reach=reach) > 0.5


def border_walk(
    mask: Bool[Tensor, "height width"], picture: "Image", *, reach: float
) -> Float[Tensor, "height width"]:
    r"""Probability of a walk over pixels to end in the object: its edges, sharpened.

    A walker starts at each pixel up to `reach` from the border of the mask. It steps
    to one of the four neighbours with weight $e^{-5 d^2 / \bar{d^2}} + 10^{-3}$, d
    the difference of colour, so it seldom crosses an edge of the picture. It ends
    further than `reach` from the border, inside the mask or outside; or, with weight
    0.01 at every step, by the colour it stands on: in the object with probability
    $a / (a + b)$, a and b how frequent the colour is in the mask and in the
    background near it (up to ten times `reach`).

    Args:
        mask: The object, its border within `reach` of the true one.
        picture: The picture.
        reach: Pixels on either side of the border that are decided anew.

    Returns:
        Probabilities; 0 or 1 away from the border. A mask without border, or nowhere
        deeper than `reach`, is returned as it is.

    Raises:
        ArgumentError: The mask has another size, or the reach is below one pixel.
        ImageError: The picture's pixels have no defined range.
        ConvergenceError: The linear equations were not solved.

    Sources:
        Grady, Random walks for image segmentation, IEEE TPAMI 28 (2006), and its
        extension by prior models (CVPR 2005). Constants chosen on half of grabcut and
        davis16val, see docs/segmentation.md.
    """
    size = (picture.height, picture.width)
    check_positive(reach, "reach")
    if reach < 1:
        raise ArgumentError(f"reach must be at least a pixel, but is {reach!r}")
    if tuple(mask.shape) != size or mask.dtype != torch.bool:
        message = (
            f"expected a boolean mask of the picture's size {size}, but got "
            f"{mask.dtype} of shape {tuple(mask.shape)}"
        )
        raise ShapeError(message)
    picture = to_rgb(picture)
    if max(size) > LONGEST:
        return _on_smaller(mask, picture, reach)
    whole = mask.cpu().numpy()
    if whole.all() or not whole.any():
        return mask.float()
    window = _window(whole, int(10 * reach) + 1)
    colours = np.asarray(picture)[window]
    found = whole.astype(np.float32)
    found[window] = _walked(whole[window], colours, reach)
    return torch.from_numpy(found).to(mask.device)


def _on_smaller(mask: Tensor, picture: "Image", reach: float) -> Tensor:
    """The walk on a smaller copy, its probabilities enlarged."""
    scale = LONGEST / max(picture.size)
    width, height = (max(1, int(side * scale)) for side in picture.size)
    small = torch.nn.functional.interpolate(mask[None, None].float(), (height, width))
    walked = border_walk(
        small[0, 0] > 0, picture.resize((width, height)), reach=max(reach * scale, 1.0)
    )
    return enlarge(walked, width=picture.width, height=picture.height)


def _window(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    """The rectangle around a mask, with a margin."""
    ends = [np.flatnonzero(mask.any(axis)) for axis in (1, 0)]
    rows, columns = (slice(max(e[0] - margin, 0), e[-1] + margin + 1) for e in ends)
    return rows, columns


def _walked(mask: np.ndarray, colours: np.ndarray, reach: float) -> np.ndarray:
    """Where walkers from the band around the border end."""
    from scipy.ndimage import distance_transform_edt

    depth = np.asarray(distance_transform_edt(mask))
    away = np.asarray(distance_transform_edt(~mask))
    band = (depth <= reach) & (away <= reach)
    inside, around = depth > reach, (away > reach) & (away < 10 * reach)
    found = mask.astype(np.float64)
    if inside.any() and around.any():
        odds = colour_odds(colours, mask, around, band)
        found[band] = absorbed(links(colours, band), band, inside, odds)
    return found


def colour_odds(
    colours: np.ndarray, mask: np.ndarray, around: np.ndarray, band: np.ndarray
) -> np.ndarray:
    """The share a / (a + b) of the colours in the band, from smoothed histograms."""
    from scipy.ndimage import gaussian_filter

    cube = (_LEVELS,) * 3
    red, green, blue = np.moveaxis(colours.astype(np.int32) * _LEVELS // 256, -1, 0)
    colour = (red * _LEVELS + green) * _LEVELS + blue
    shares = []
    for region in (mask, around):
        counts = np.bincount(colour[region], minlength=_LEVELS**3).astype(float)
        smooth = gaussian_filter(counts.reshape(cube), 0.7).ravel() / region.sum()
        shares.append(smooth[colour[band]] + 1e-5)
    return shares[0] / (shares[0] + shares[1])


def links(colours: np.ndarray, band: np.ndarray) -> tuple[np.ndarray, ...]:
    """Neighbours of which at least one lies in the band: two ends and a weight."""
    width = band.shape[1]
    below, right = band[:-1] | band[1:], band[:, :-1] | band[:, 1:]
    first, second = [], []
    for step, kept in ((width, below), (1, right)):
        rows, columns = np.nonzero(kept)
        first.append(rows * width + columns)
        second.append(first[-1] + step)
    i, j = np.concatenate(first), np.concatenate(second)
    flat = colours.reshape(-1, 3).astype(np.float32)
    gap = ((flat[i] - flat[j]) ** 2).sum(-1).astype(np.float64)
    alike = np.exp(-_CONTRAST * gap / max(float(gap.mean()), 1e-9)) + _FAINT
    return i, j, alike


def absorbed(
    links: tuple[np.ndarray, ...],
    band: np.ndarray,
    inside: np.ndarray,
    odds: np.ndarray,
) -> np.ndarray:
    r"""Probability to end inside, for every pixel of the band.

    Solves $(D - W) x = W 1_\mathrm{inside} + c\,o$, with D the sums of all weights,
    c the weight of being caught and o the odds of the colour.
    """
    from scipy import sparse
    from scipy.sparse.linalg import cg

    i, j, weight = links
    ends = (np.concatenate([i, j]), np.concatenate([j, i]))
    every = sparse.csr_matrix((np.tile(weight, 2), ends), shape=(band.size,) * 2)
    steps = every[band.ravel()]
    root = 1 / np.sqrt(np.asarray(steps.sum(1)).ravel() + _CAUGHT)
    arriving = steps @ inside.ravel() + _CAUGHT * odds
    scaled = sparse.diags(root) @ steps[:, band.ravel()] @ sparse.diags(root)
    matrix = sparse.identity(len(root)) - scaled
    found, unsolved = cg(matrix, root * arriving, x0=odds / root, maxiter=_STEPS)
    if unsolved:
        message = (
            f"the border walk did not settle within {_STEPS} steps of conjugate "
            "gradients; use a smaller reach"
        )
        raise ConvergenceError(message, found * root)
    return found * root
