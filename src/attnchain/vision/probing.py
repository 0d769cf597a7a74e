"""Fitting the linear probe of objectness on pictures with masks."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

from attnchain.capturing import TokenGrid
from attnchain.checks import check_number, check_positive
from attnchain.errors import ArgumentError, ShapeError, UnsupportedModelError
from attnchain.models import ObjectProbe
from attnchain.vision.picture_attention import check_size, layer_numbers
from attnchain.vision.states import read_states

if TYPE_CHECKING:
    from PIL.Image import Image

    from attnchain.models import LoadedModel

UNKNOWN = 255
"""Pixels of a mask that count neither as object nor as ground."""


def fit_probe(
    model: "LoadedModel",
    examples: "Iterable[tuple[Image, Int[Tensor, 'height width']]]",
    *,
    layers: Sequence[int],
    note: str,
    size: int = 700,
    penalty: float = 0.1,
) -> ObjectProbe:
    r"""Fits a linear probe of objectness by ridge regression.

    Minimises $\frac{\lambda}{d} |w|^2 + \frac{1}{K} \sum_k \frac{1}{n_k} \sum_i
    (b + \sum_l w_l \cdot \hat x_{kil} - y_{ki})^2$ over K pictures of n_k patches,
    with y the share of patch i that lies on an object, and $\hat x$ the unit vector of
    the state (of width d) that layer l reads.

    Args:
        model: What `attnchain.models.load` returned.
        examples: Pictures and masks of their size, tensors or arrays: 1 on every
            object, 0 beside them, 255 where that is not known.
        layers: Layers whose states are read, counted from 0.
        note: What the examples are, in one sentence; it is kept with the probe.
        size: Longer side the pictures are resized to, in pixels.
        penalty: lambda.

    Returns:
        `ObjectProbe`; `dataclasses.replace(model, probe=probe)` uses it.

    Raises:
        ArgumentError: Examples without object or without ground, a penalty that is not
            positive, a mask with other values, or layers that are no numbers from 0 on.
        ShapeError: A mask is not of its picture's size.
        UnsupportedModelError: Layers of the model read no tokens of patches.
    """
    check_positive(penalty, "penalty")
    check_number(size, "size")
    check_size(size, model)
    layers = layer_numbers(layers)
    square, product, count, low, high = torch.zeros(()), torch.zeros(()), 0, 1.0, 0.0
    for picture, mask in examples:
        states, grid = _states(model, picture, layers, size)
        shares, known = _shares(torch.as_tensor(mask), picture, grid, count + 1)
        units = torch.cat([normalize(x, dim=-1) for x in states], -1)
        rows = torch.cat([units, torch.ones_like(units[:, :1])], -1).cpu().double()
        rows, told = rows[known], shares[known].double()
        square = square + rows.mT @ rows / max(len(rows), 1)
        product = product + rows.mT @ told / max(len(rows), 1)
        low, high = min([low, *told.tolist()]), max([high, *told.tolist()])
        count += 1
    if low >= high:
        raise ArgumentError(_NOTHING.format(count=count, unknown=UNKNOWN))
    width = (len(square) - 1) // len(layers)
    held = torch.full((len(square),), count * penalty / width, dtype=square.dtype)
    held[-1] = 0
    solved = torch.linalg.solve(square + held.diag(), product)
    weights = solved[:-1].view(len(layers), width).float()
    return ObjectProbe(layers, weights, float(solved[-1]), note)


_NOTHING = (
    "a probe is fitted on what is object and what is not, but the {count} examples do "
    "not hold both; masks have 1 on every object, 0 beside them, and {unknown} where "
    "that is not known (so a mask of 0 and 255 has to be divided by 255)"
)


def _states(
    model: "LoadedModel", picture: "Image", layers: tuple[int, ...], size: int
) -> tuple[list[Tensor], TokenGrid]:
    """What the layers read of the patches, and where these lie."""
    read, grid = read_states(model, picture, layers, size=size)
    different = min(layers, default=-1) >= 0 and len(set(layers)) == len(layers)
    if read is None or not different:
        message = (
            f"layers {', '.join(map(str, layers)) or '(none)'} of {model.name} are not "
            f"all there and read tokens of {grid.n_patches} patches; name different "
            "layers of a vision transformer, from 0 on"
        )
        raise UnsupportedModelError(message)
    return read, grid


def _shares(
    mask: Int[Tensor, "height width"], picture: "Image", grid: TokenGrid, number: int
) -> tuple[Float[Tensor, " n"], Tensor]:
    """How much of the known part of each patch is object, and what is half known."""
    if tuple(mask.shape) != (picture.height, picture.width):
        message = (
            f"example {number}: expected a mask of the picture's size "
            f"{(picture.height, picture.width)}, but got {tuple(mask.shape)}"
        )
        raise ShapeError(message)
    others = sorted(set(mask.unique().tolist()) - {0, 1, UNKNOWN})
    if others:
        message = (
            f"example {number}: a mask holds 0, 1 and {UNKNOWN} (not known), but this "
            f"one has {others[:5]}"
        )
        raise ArgumentError(message)
    known = (mask != UNKNOWN).float()
    parts = torch.stack([(mask == 1).float(), known])[None]
    on, seen = adaptive_avg_pool2d(parts, (grid.rows, grid.columns))[0].flatten(1)
    return (on / seen.clamp_min(1e-6)).cpu(), (seen > 0.5).cpu()
