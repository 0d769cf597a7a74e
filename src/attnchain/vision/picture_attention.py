"""The attention a model pays inside one picture, as chains over its patches."""

import operator
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.capturing import AbstractRecord, TokenGrid, capture
from attnchain.checks import check_number
from attnchain.errors import (
    ArgumentError,
    GridError,
    SiteNotFoundError,
    UnsupportedModelError,
)
from attnchain.files import Outputs
from attnchain.markov import propagate
from attnchain.mixed_heads import MixedHeads
from attnchain.operators import (
    AttentionTransition,
)
from attnchain.plot import save_figure
from attnchain.ranking import TokenRank, token_rank
from attnchain.vision.contents import nothing_in
from attnchain.vision.states import (
    deepest,
    every_state,
    patch_states,
    watched_states,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from attnchain.models import LoadedModel


MOST_PATCHES = 16_384
"""Patches of one picture: beyond, memory and time stop being a desk's."""


@dataclass(frozen=True, eq=False)
class PictureAttention(MixedHeads):
    """Self-attention of some layers among the patches of one picture.

    Class and register tokens are left out of the chains (softmax again over the
    patches); what the class token attends to is kept beside them. What is asked of
    the chains is solved for once, when it is first asked.

    Attributes:
        picture: The picture, at its own size.
        grid: Rows and columns of the patches.
        layers: Layer numbers, counted from 0.
        heads: One transition for each layer, batch shape `(heads,)`.
        class_rows: For each layer, the class token's attention to the patches,
            `(heads, n)`, renormalised; empty for models without a class token.
        model_name: The model it was read from.
        model_note: What that model's weights are.
        removed: Number of class, register and other tokens left out of the chains.
        features: State of the patches that the last of the layers reads, `(n, width)`;
            None where the model has no stack of layers to watch.
        objectness: The share of each patch that lies on some object, as the model's
            linear probe tells it; None where the model has no probe.
        probe_note: What that probe was fitted on.
    """

    ending: ClassVar[str] = "-heads.json"
    beside: ClassVar[tuple[str, ...]] = ("-heads.png",)

    picture: "Image"
    grid: TokenGrid
    layers: tuple[int, ...]
    heads: tuple[AttentionTransition, ...]  # pyright: ignore[reportIncompatibleVariableOverride]
    class_rows: tuple[Float[Tensor, "heads n"], ...]
    model_name: str
    model_note: str
    removed: int = 0
    features: Float[Tensor, "n width"] | None = None
    objectness: Float[Tensor, " n"] | None = None
    probe_note: str = ""

    @cached_property
    def rank(self) -> TokenRank:
        """Incoming TokenRank of the patches in `chain`, damping 0.99."""
        return token_rank(self.chain)

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What must be said of every answer: that nothing can be told apart."""
        rows, columns = self.grid.rows, self.grid.columns
        nothing = nothing_in(self.picture, rows=rows, columns=columns)
        return () if nothing is None else (nothing,)

    @property
    def size(self) -> dict[str, int]:
        """Width and height of the picture in pixels, by name."""
        return {"width": self.picture.width, "height": self.picture.height}

    @property
    def heading(self) -> str:
        """Model, layers and what the weights are, in one line."""
        layers = ", ".join(map(str, self.layers))
        return f"{self.model_name}, layers {layers}: {self.model_note}"

    def bounces(self, start: int, count: int) -> Float[Tensor, "count rows columns"]:
        """Where attention from a patch is after 1, 2, ... bounces, as maps.

        Args:
            start: Number of the patch, row by row.
            count: Number of bounces.
        """
        steps = propagate(self.chain, start, count, all_bounces=True)[1:]
        return self.grid.to_map(steps)

    def patch_centre(self, patch: int) -> tuple[float, float]:
        """Centre (x, y) of a patch in pixels of the picture.

        Args:
            patch: Number of the patch, row by row.
        """
        row, column = divmod(patch, self.grid.columns)
        return (
            (column + 0.5) * self.picture.width / self.grid.columns,
            (row + 0.5) * self.picture.height / self.grid.rows,
        )

    def summary(self) -> str:
        lines = [self.heading, *self.notes, "layer   |lambda_2|"]
        for layer, row in zip(self.layers, self.lambda2.tolist(), strict=True):
            lines.append(f"{layer:5d}   " + " ".join(f"{value:.3f}" for value in row))
        return "\n".join(lines)

    def facts(self) -> dict[str, Any]:
        return {
            **super().facts(),
            "picture": self.size,
            "patches": {"rows": self.grid.rows, "columns": self.grid.columns},
            "probe": self.probe_note,
            "notes": self.notes,
        }

    def write(self, outputs: Outputs) -> None:
        save_figure(self.plot(), outputs.path("-heads.png"))


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
        ImageError: This is no Pillow picture, or its pixels have no defined range.
        ArgumentError: The size is no number, or layers are no whole numbers.
        SiteNotFoundError: The model has no such layer.
        GridError: The size is less than one patch, the picture becomes a single patch
            (there is nothing to walk to), or more than 16,384.
        UnsupportedModelError: Attention is not a plain softmax of queries and keys
            over the tokens of the picture.
    """
    check_number(size, "size")
    check_size(size, model)
    layers = None if layers is None else layer_numbers(layers)
    pixels = model.pixels(picture, size=size)
    grid = model.grid(pixels)
    if grid.n_patches < 2:
        message = (
            f"the picture becomes {grid.n_patches} patch at size {size}: a chain needs "
            "at least two patches. Give a larger size or a less narrow picture"
        )
        raise GridError(message)
    last = deepest(model.model, layers)
    probed = () if model.probe is None else model.probe.layers
    with watched_states(model.model, (last, *probed)) as states:
        records = _records(model, pixels, layers)
    tokens = [_whole(record, grid, model) for record in records]
    return PictureAttention(
        picture=picture,
        grid=TokenGrid(grid.rows, grid.columns),
        layers=tuple(record.site.layer for record in records),
        heads=tuple(_patches(chain, grid) for chain in tokens),
        class_rows=tuple(_class_row(chain, grid) for chain in tokens if grid.prefix),
        model_name=model.name,
        model_note=model.note,
        removed=grid.n_tokens - grid.n_patches,
        features=patch_states(states[last], grid),
        objectness=_objectness(model, states, grid),
        probe_note="" if model.probe is None else model.probe.note,
    )


def _objectness(
    model: "LoadedModel", states: Mapping[int, Sequence[Tensor]], grid: TokenGrid
) -> Float[Tensor, " n"] | None:
    """What the model's probe says of the patches."""
    if model.probe is None:
        return None
    read = every_state(states, model.probe.layers, grid)
    if read is None:
        message = (
            f"the probe of {model.name} reads layers "
            f"{', '.join(map(str, model.probe.layers))}, but not all of them are there "
            f"and read tokens of {grid.n_patches} patches; fit one for this model with "
            "attnchain.vision.fit_probe, or use replace(model, probe=None)"
        )
        raise UnsupportedModelError(message)
    return model.probe(read)


def layer_numbers(layers: Sequence[int]) -> tuple[int, ...]:
    """Layers as whole numbers; anything else is an ArgumentError."""
    try:
        return tuple(operator.index(layer) for layer in layers)
    except TypeError as error:
        message = f"layers must be a list of whole numbers, but are {layers!r}"
        raise ArgumentError(message) from error


def check_size(size: int, model: "LoadedModel") -> None:
    """Before anything is resized: a large picture would fill the memory at once.

    Args:
        size: Longer side of the picture, in pixels.
        model: The model that will read it.

    Raises:
        GridError: It makes more patches than are read.
    """
    count = (size // model.patch_size) ** 2
    if count > MOST_PATCHES:
        message = (
            f"size {size} makes up to {count:,} patches of {model.patch_size} pixels; "
            f"at most {MOST_PATCHES:,} are read. Use a size up to "
            f"{int(MOST_PATCHES**0.5) * model.patch_size}"
        )
        raise GridError(message)


def _records(
    model: "LoadedModel", pixels: Tensor, layers: Sequence[int] | None
) -> Sequence[AbstractRecord]:
    """Runs the model and keeps the attention of the chosen layers."""
    with torch.no_grad(), ExitStack() as stack:
        attention = stack.enter_context(capture(model.model, layers=layers))
        try:
            model.model(pixels)
            stack.close()
        except SiteNotFoundError:
            found = ()
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
    return found


def _whole(
    record: AbstractRecord, grid: TokenGrid, model: "LoadedModel"
) -> AttentionTransition:
    """The heads of the one picture over all its tokens."""
    chain = record.transition()[0]
    plain = isinstance(chain, AttentionTransition)
    if not plain or chain.mask is not None or chain.causal:
        wrong = "masks attention, or keeps no queries and keys"
    elif chain.n_states != grid.n_tokens:
        wrong = f"has {chain.n_states} tokens"
    else:
        return chain
    message = (
        f"{record.site} of {model.name!r} {wrong}; reading a picture needs a plain "
        f"softmax over the {grid.n_tokens} tokens of the picture"
    )
    raise UnsupportedModelError(message)


def _patches(chain: AttentionTransition, grid: TokenGrid) -> AttentionTransition:
    """The heads over the patches alone: softmax again without the other tokens."""
    places = (slice(None), grid.patches)
    return AttentionTransition(chain.q[places], chain.k[places], scale=chain.scale)


def _class_row(chain: AttentionTransition, grid: TokenGrid) -> Float[Tensor, "heads n"]:
    """The class token's attention over the patches, softmax over them alone."""
    scale = chain.q.shape[-1] ** -0.5 if chain.scale is None else chain.scale
    first = chain.q[:, :1].float() * scale
    return (first @ chain.k[:, grid.patches].float().mT).softmax(-1)[:, 0]
