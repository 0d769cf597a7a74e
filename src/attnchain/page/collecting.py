"""From a model and a picture to the data of a page."""

import math
from contextlib import suppress
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attnchain.capturing import TokenGrid, capture
from attnchain.errors import (
    ConvergenceError,
    GridError,
    OutputError,
    ReducibleChainError,
    ShapeError,
    ToleranceError,
    UnsupportedModelError,
)
from attnchain.markov import MetastableSets, metastable_sets, mix, second_eigenvalue
from attnchain.models import LoadedModel
from attnchain.models.pictures import to_rgb
from attnchain.operators import (
    AbstractTransition,
    AttentionTransition,
    DenseTransition,
)
from attnchain.page.data import PageData

if TYPE_CHECKING:
    from PIL.Image import Image

LONGER_SIDE = 32
"""Patches along the longer side."""
MAX_NUMBERS = 9_600_000
"""Query and key entries that fit a page of 15 MB: 72 heads of 64, 1,024 patches."""
_HOPELESS = 1.3
"""So many times more numbers never fit, however well they can be packed."""
MOST_PATCHES = 16_384
"""Refused before the model runs: beyond, its own attention takes minutes."""
MAX_SETS = 8
LAMBDA2_TOLERANCE = 3e-4
SHOWN_SIDE = 1024
NO_SETS = (
    *(ReducibleChainError, ConvergenceError, ToleranceError, ShapeError),
    torch.linalg.LinAlgError,  # pyright: ignore[reportPrivateImportUsage]
)
"""Reducible or nearly so, or every number of sets would split a complex pair."""


def collect(
    model: LoadedModel,
    picture: "Image",
    *,
    title: str = "picture",
    size: int | None = None,
) -> PageData:
    """Run a model on a picture and gather the chains of all heads over its patches.

    Class, register and other special tokens are removed: every row is the softmax over
    the patches alone. The page opens with the |lambda_2|-weighted mixture of the last
    quarter of the layers; metastable sets are computed here, of that mixture and of
    every head.

    Args:
        model: What `attnchain.models.load` returns.
        picture: A Pillow picture.
        title: Heading of the page.
        size: Longer side the model sees, in pixels; by default 32 patches, or fewer
            where the model has so many heads that the page would exceed 15 MB.

    Returns:
        The data of one page.

    Raises:
        ImageError: This is no Pillow picture, or its pixels have no defined range.
        GridError: The size is less than one patch or makes more than 16,384, or the
            picture has one patch only.
        OutputError: The page would be far larger than 15 MB.
        UnsupportedModelError: Attention is not a plain softmax of queries and keys.
        ConvergenceError: The second eigenvalue of a head was not found.

    Cost:
        One run of the model, and |lambda_2| and metastable sets of each head: about
        15 seconds on one core for 72 heads and 1,024 patches, most for the sets.
    """
    default = LONGER_SIDE * model.patch_size
    size, given = (default, False) if size is None else (size, True)
    grid, layers = _chains(model, picture, size)
    numbers = sum(layer.q.numel() + layer.k.numel() for layer in layers)
    if not given and numbers > MAX_NUMBERS:
        fitting = int(default * math.sqrt(MAX_NUMBERS / numbers))
        grid, layers = _chains(model, picture, max(fitting, 2 * model.patch_size))
    elif numbers > _HOPELESS * MAX_NUMBERS:
        message = (
            f"a page of {grid.n_patches:,} patches and this many heads would take some "
            f"{numbers / MAX_NUMBERS * 14:.0f} MB, and at most 15 are written; "
            f"choose a size up to about {int(size * math.sqrt(MAX_NUMBERS / numbers))}"
        )
        raise OutputError(message)
    if grid.n_patches < 2:
        message = f"a page needs at least two patches, but the picture has {grid}"
        raise GridError(message)
    lambda2 = torch.stack(
        [
            second_eigenvalue(layer, tolerance=LAMBDA2_TOLERANCE).modulus
            for layer in layers
        ]
    )
    mixed = range(len(layers) - math.ceil(len(layers) / 4), len(layers))
    sets, proposed = _sets(_mixture([layers[i] for i in mixed], lambda2[mixed.start :]))
    return PageData(
        title=title,
        model=model.name,
        note=model.note,
        picture=_shown(picture),
        grid=grid,
        layers=layers,
        lambda2=lambda2,
        mixed_layers=tuple(mixed),
        sets=sets,
        proposed_sets=proposed,
        head_sets=tuple(_head_sets(layer) for layer in layers),
    )


def _chains(
    model: LoadedModel, picture: "Image", size: int
) -> tuple[TokenGrid, tuple[AttentionTransition, ...]]:
    """Run the model and keep its patch-to-patch attention, one batch per layer."""
    pixels = model.pixels(picture, size=size)
    grid = model.grid(pixels)
    if grid.n_patches > MOST_PATCHES:
        message = (
            f"size {size} makes {grid.n_patches:,} patches; a page takes about a "
            f"thousand. Leave the size out, or choose {LONGER_SIDE * model.patch_size}"
        )
        raise GridError(message)
    with torch.no_grad(), capture(model.model) as attention:
        model.model(pixels)
    layers = []
    for record in attention.matching():
        chain = record.transition()
        if (
            not isinstance(chain, AttentionTransition)
            or chain.mask is not None
            or chain.causal
            or chain.n_states != grid.n_tokens
        ):
            message = (
                f"{record.site} of {model.name!r} is not a plain softmax over the "
                f"{grid.n_tokens} tokens of the picture; a page needs that"
            )
            raise UnsupportedModelError(message)
        patches = chain.restrict(grid.patches)
        q, k = patches.q[0].cpu(), patches.k[0].cpu()
        layers.append(AttentionTransition(q, k, scale=patches.scale))
    return grid, tuple(layers)


def _mixture(layers: list[AttentionTransition], lambda2: Tensor) -> AbstractTransition:
    """The mixture as one stored chain: its products are needed hundreds of times."""
    weights = lambda2.double() / lambda2.double().sum()
    return DenseTransition(mix(layers, list(weights)).to_dense())


def _sets(
    mixture: AbstractTransition,
) -> tuple[tuple[MetastableSets, ...], int | None]:
    """Sets for every number that splits no complex pair, and the number proposed."""
    try:
        proposed = metastable_sets(mixture, max_count=MAX_SETS).coarse.shape[0]
    except NO_SETS:
        return (), None
    found = []
    for count in range(2, min(MAX_SETS, mixture.n_states) + 1):
        with suppress(*NO_SETS):
            found.append(metastable_sets(mixture, count))
    return tuple(found), proposed


def _head_sets(layer: AttentionTransition) -> tuple[MetastableSets | None, ...]:
    """Each head's sets, as many as it proposes; None where it has none."""
    return tuple(_own_sets(DenseTransition(head)) for head in layer.to_dense())


def _own_sets(head: AbstractTransition) -> MetastableSets | None:
    try:
        return metastable_sets(head, max_count=MAX_SETS)
    except NO_SETS:
        return None


def _shown(picture: "Image") -> "Image":
    """The picture as the page shows it: RGB, not larger than needed."""
    shown = to_rgb(picture)
    shown.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return shown
