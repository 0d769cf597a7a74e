"""From a model and a picture to the data of a page."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from attnchain.errors import (
    ArgumentError,
    ConvergenceError,
    OutputError,
    ReducibleChainError,
    ToleranceError,
)
from attnchain.markov import (
    MetastableSets,
    metastable_levels,
    metastable_sets,
    mix,
    most_distinct,
)
from attnchain.models import LoadedModel, to_rgb
from attnchain.operators import (
    AbstractTransition,
    AttentionTransition,
    DenseTransition,
)
from attnchain.page.data import PageData
from attnchain.vision import PictureAttention, read_attention

if TYPE_CHECKING:
    from PIL.Image import Image

LONGER_SIDE = 32
"""Patches along the longer side."""
MAX_NUMBERS = 9_600_000
"""Query and key entries that fit a page of 15 MB: 72 heads of 64, 1,024 patches."""
_HOPELESS = 1.3
"""So many times more numbers never fit, however well they can be packed."""
MAX_SETS = 8
SHOWN_SIDE = 1024
NO_SETS = (
    *(ReducibleChainError, ConvergenceError, ToleranceError, ArgumentError),
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
        GridError: The size is less than one patch, or the picture has one patch only
            or more than 16,384.
        OutputError: The page would be far larger than 15 MB.
        UnsupportedModelError: Attention is not a plain softmax of queries and keys.
        ConvergenceError: The second eigenvalue of a head was not found.

    Cost:
        One run of the model, and |lambda_2| and metastable sets of each head: about
        15 seconds on one core for 72 heads and 1,024 patches, most for the sets.
    """
    title = title.encode("utf-8", "replace").decode()
    attention = _fitting(model, picture, size)
    lambda2 = attention.lambda2
    first = len(lambda2) - math.ceil(len(lambda2) / 4)
    late = mix(attention.heads[first:], lambda2=list(lambda2[first:]))
    sets, proposed = _sets(DenseTransition(late.to_dense()))
    return PageData(
        title=title,
        picture=shown(picture),
        attention=attention,
        mixed_layers=tuple(range(first, len(lambda2))),
        sets=sets,
        proposed_sets=proposed,
        head_sets=tuple(_head_sets(layer) for layer in attention.heads),
    )


def _fitting(
    model: LoadedModel, picture: "Image", size: int | None
) -> PictureAttention:
    """The attention at a size whose page is small enough."""
    chosen = LONGER_SIDE * model.patch_size if size is None else size
    attention = read_attention(picture, model, size=chosen)
    excess = _numbers(attention) / MAX_NUMBERS
    fitting = int(chosen / math.sqrt(excess))
    if size is None and excess > 1:
        smallest = 2 * model.patch_size
        attention = read_attention(picture, model, size=max(fitting, smallest))
    elif excess > _HOPELESS:
        message = (
            f"a page of {attention.grid.n_patches:,} patches and this many heads would "
            f"take some {excess * 14:.0f} MB, and at most 15 are written; choose a "
            f"size up to about {fitting}"
        )
        raise OutputError(message)
    heads = tuple(layer.to(torch.device("cpu")) for layer in attention.heads)
    return replace(attention, heads=heads)


def _numbers(attention: PictureAttention) -> int:
    """Query and key entries of all heads."""
    return sum(layer.q.numel() + layer.k.numel() for layer in attention.heads)


def _sets(
    mixture: AbstractTransition,
) -> tuple[tuple[MetastableSets, ...], int | None]:
    """Sets for every number that can be told apart, and the number proposed."""
    try:
        levels = metastable_levels(mixture, max_count=min(MAX_SETS, mixture.n_states))
    except NO_SETS:
        return (), None
    return levels, len(most_distinct(levels).prevalence)


def _head_sets(layer: AttentionTransition) -> tuple[MetastableSets | None, ...]:
    """Each head's sets, as many as it proposes; None where it has none."""
    return tuple(_own_sets(DenseTransition(head)) for head in layer.to_dense())


def _own_sets(head: AbstractTransition) -> MetastableSets | None:
    try:
        return metastable_sets(head, max_count=MAX_SETS)
    except NO_SETS:
        return None


def shown(picture: "Image") -> "Image":
    """The picture as the page shows it: RGB, not larger than needed."""
    small = to_rgb(picture).copy()
    small.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return small
