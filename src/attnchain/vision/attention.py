"""The attention a model pays inside one picture, as chains over its patches."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.capturing import AttentionRecord, TokenGrid, capture
from attnchain.errors import GridError, SiteNotFoundError, UnsupportedModelError
from attnchain.markov import mix, second_eigenvalue
from attnchain.operators import (
    AbstractTransition,
    AttentionTransition,
    forward_backward,
    stored,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from attnchain.models import LoadedModel


MOST_PATCHES = 16_384
"""Patches of one picture: beyond, memory and time stop being a desk's."""


@dataclass(frozen=True, eq=False)
class PictureAttention:
    """Self-attention of some layers among the patches of one picture.

    Class and register tokens are left out of the chains (softmax again over the
    patches); what the class token attends to is kept beside them.

    Attributes:
        picture: The picture, at its own size.
        grid: Rows and columns of the patches.
        layers: Layer numbers, counted from 0.
        heads: One transition for each layer, batch shape `(heads,)`.
        class_rows: For each layer, the class token's attention to the patches,
            `(heads, n)`, renormalised; empty for models without a class token.
        model_name: The model it was read from.
        model_note: What that model's weights are.
    """

    picture: "Image"
    grid: TokenGrid
    layers: tuple[int, ...]
    heads: tuple[AttentionTransition, ...]
    class_rows: tuple[Float[Tensor, "heads n"], ...]
    model_name: str
    model_note: str

    @cached_property
    def lambda2(self) -> Float[Tensor, "layers heads"]:
        """Modulus of the second eigenvalue of every head."""
        return torch.stack([second_eigenvalue(layer).modulus for layer in self.heads])

    @cached_property
    def chain(self) -> AbstractTransition:
        """All heads of all layers mixed, weighted by lambda_2; stored where it fits."""
        weights = self.lambda2.double()
        total = float(weights.sum())
        return stored(mix(self.heads, [row / total for row in weights]))

    @cached_property
    def out_and_back(self) -> AbstractTransition:
        """One step along `chain` and one back, see `forward_backward`."""
        return stored(forward_backward(self.chain))

    @property
    def size(self) -> dict[str, int]:
        """Width and height of the picture in pixels, by name."""
        return {"width": self.picture.width, "height": self.picture.height}


def read_attention(
    picture: "Image",
    model: "LoadedModel",
    *,
    layers: Sequence[int] | None = None,
    size: int = 518,
) -> PictureAttention:
    """Runs a model on one picture and keeps the attention among its patches.

    Args:
        picture: A Pillow picture of any size and mode.
        model: What `attnchain.models.load` returned.
        layers: Layers to keep, counted from 0; -1 is the last. All by default.
        size: Longer side the picture is resized to, in pixels.

    Returns:
        `PictureAttention`.

    Raises:
        SiteNotFoundError: The model has no such layer.
        GridError: The picture becomes a single patch: there is nothing to walk to; or
            more than 16,384.
        UnsupportedModelError: The model's attention is masked.
    """
    if (size // model.patch_size) ** 2 > MOST_PATCHES:
        message = (
            f"size {size} makes up to {(size // model.patch_size) ** 2:,} patches of "
            f"{model.patch_size} pixels; at most {MOST_PATCHES:,} are read. Use a "
            f"size up to {int(MOST_PATCHES**0.5) * model.patch_size}"
        )
        raise GridError(message)
    pixels = model.pixels(picture, size=size)
    grid = model.grid(pixels)
    if grid.n_patches < 2:
        message = (
            f"the picture becomes {grid.n_patches} patch at size {size}: a chain needs "
            "at least two. Give a larger --size or a less narrow picture"
        )
        raise GridError(message)
    records = _records(model, pixels, layers)
    return PictureAttention(
        picture=picture,
        grid=TokenGrid(grid.rows, grid.columns),
        layers=tuple(record.site.layer for record in records),
        heads=tuple(_patch_heads(record, grid) for record in records),
        class_rows=tuple(_class_row(r, grid) for r in records if grid.prefix),
        model_name=model.name,
        model_note=model.note,
    )


def _records(
    model: "LoadedModel", pixels: Tensor, layers: Sequence[int] | None
) -> list[AttentionRecord]:
    """Runs the model and keeps queries and keys of the chosen layers."""
    with torch.no_grad(), ExitStack() as stack:
        attention = stack.enter_context(capture(model.model, layers=layers))
        try:
            model.model(pixels)
            stack.close()
        except SiteNotFoundError:
            found = []
        else:
            found = attention.matching()
    count = attention.n_layers["self"]
    kept = {record.site.layer for record in found}
    missing = [n for n in layers or () if (n if n >= 0 else count + n) not in kept]
    if missing:
        message = (
            f"{model.name} has layers 0 to {count - 1}, but "
            f"{', '.join(map(str, missing[:5]))} was asked for"
        )
        raise SiteNotFoundError(message)
    return [record for record in found if isinstance(record, AttentionRecord)]


def _class_row(record: AttentionRecord, grid: TokenGrid) -> Float[Tensor, "heads n"]:
    """The class token's attention over the patches, softmax over them alone."""
    first = record.q[0, :, :1].float() * record.scale
    return (first @ record.k[0, :, grid.patches].float().mT).softmax(-1)[:, 0]


def _patch_heads(record: AttentionRecord, grid: TokenGrid) -> AttentionTransition:
    """The heads of the one picture, over its patches."""
    if record.mask is not None or record.causal:
        message = f"{record.site} masks attention; reading a picture needs it unmasked"
        raise UnsupportedModelError(message)
    patches = (0, slice(None), grid.patches)
    return AttentionTransition(record.q[patches], record.k[patches], scale=record.scale)
