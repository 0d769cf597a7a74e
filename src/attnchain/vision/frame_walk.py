"""Walks between frames of a video, to the patches that look most alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from attnchain.capturing import TokenGrid
from attnchain.errors import UnsupportedModelError
from attnchain.models import layer_stack
from attnchain.vision.picture_attention import check_size
from attnchain.vision.states import read_states

if TYPE_CHECKING:
    from PIL.Image import Image

    from attnchain.models import LoadedModel

_DEPTHS: Final = (1 / 2, 2 / 3, 5 / 6)
"""Of the layers whose patches are compared, from 0, the first layer, to 1."""
_TEMPERATURE: Final = 0.02
_REACH: Final = 0.3
"""How far a patch moves between frames, in longer sides of the picture."""
_BLOCK: Final = 2**24
"""Probabilities that are in memory at a time."""


@dataclass(frozen=True, eq=False)
class Seen:
    """A frame that a walker may step to.

    Attributes:
        tokens: Unit vectors, one for each patch.
        memberships: What each patch belongs to.
    """

    tokens: Float[Tensor, "n width"]
    memberships: Float[Tensor, "n names"]


def read_tokens(
    frame: "Image", model: "LoadedModel", *, size: int
) -> tuple[Float[Tensor, "n width"], TokenGrid]:
    """Reads what the patches of a frame are compared by.

    Args:
        frame: A Pillow picture.
        model: What `attnchain.models.load` returned.
        size: Longer side the picture is resized to, in pixels.

    Returns:
        The states that three layers read, each of length one, side by side and again
        of length one; and rows and columns of the patches.

    Raises:
        GridError: The size is less than one patch, or makes more than 16,384.
        UnsupportedModelError: The model has no stack of layers over patches.
    """
    check_size(size, model)
    count = len(layer_stack(model.model))
    depths = [min(round(depth * count), count - 1) for depth in _DEPTHS]
    layers = list(dict.fromkeys(depths))
    states, grid = read_states(model, frame, layers, size=size)
    if states is None:
        message = (
            f"the layers of {model.name} read no tokens of {grid.n_patches} patches, "
            "by which frames are compared; use a plain vision transformer"
        )
        raise UnsupportedModelError(message)
    found = [normalize(state, dim=-1) for state in states]
    tokens = normalize(torch.cat(found, -1), dim=-1)
    return tokens, TokenGrid(grid.rows, grid.columns)


def walk_back(
    tokens: Float[Tensor, "n width"], context: Sequence[Seen], grid: TokenGrid
) -> Float[Tensor, "n names"]:
    """Memberships of the patches: one step to frames whose memberships are known.

    Args:
        tokens: Unit vectors of the patches.
        context: The frames stepped to, of the same grid.
        grid: Rows and columns of the patches.

    Returns:
        Rows that sum to one.
    """
    known = torch.cat([seen.tokens for seen in context])
    values = torch.cat([seen.memberships for seen in context])
    near = _near(grid).to(tokens.device)
    rows = max(1, _BLOCK // len(known))
    parts: list[Tensor] = []
    for some, beside in zip(tokens.split(rows), near.split(rows), strict=True):
        likeness = some @ known.mT / _TEMPERATURE
        allowed = beside.repeat(1, len(context))
        likeness = likeness.masked_fill(~allowed, -torch.inf)
        parts.append(likeness.softmax(-1) @ values)
    return torch.cat(parts)


def _near(grid: TokenGrid) -> Bool[Tensor, "n n"]:
    """Patches within reach of each other, along both sides."""
    reach = _REACH * max(grid.rows, grid.columns)
    row, column = (
        (side[:, None] - side).abs() <= reach
        for side in (torch.arange(grid.rows), torch.arange(grid.columns))
    )
    both = row[:, None, :, None] & column[None, :, None, :]
    return both.reshape(grid.n_patches, grid.n_patches)
