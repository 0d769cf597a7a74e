"""What one page shows, before it is stored."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from attnchain.capturing import TokenGrid
from attnchain.markov import MetastableSets
from attnchain.operators import AttentionTransition

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class PageData:
    """A picture, the chains of all heads over its patches, and what was computed.

    Attributes:
        title: Heading of the page, usually the picture's file name.
        model: Name of the model.
        note: What the weights are.
        picture: The picture, RGB.
        grid: Layout of the model's tokens; only its patches are states here.
        layers: One transition of batch shape `(heads,)` for each layer, over the
            patches only.
        lambda2: |lambda_2| of every head.
        mixed_layers: Layers whose heads, weighted by |lambda_2|, make the mixture the
            page opens with.
        sets: Metastable sets of that mixture, one entry for each number of sets.
        proposed_sets: The number of sets the chain itself proposes; None without.
        head_sets: For each layer and head the metastable sets of that head alone, as
            many as it proposes; None where it has none.
    """

    title: str
    model: str
    note: str
    picture: "Image"
    grid: TokenGrid
    layers: tuple[AttentionTransition, ...]
    lambda2: Float[Tensor, "layers heads"]
    mixed_layers: tuple[int, ...]
    sets: tuple[MetastableSets, ...]
    proposed_sets: int | None
    head_sets: tuple[tuple[MetastableSets | None, ...], ...]
