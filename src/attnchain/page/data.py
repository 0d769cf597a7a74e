"""What one page shows, before it is stored."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from attnchain.markov import MetastableSets
from attnchain.vision import PictureAttention

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class PageData:
    """A picture, the chains of all heads over its patches, and what was computed.

    Attributes:
        title: Heading of the page, usually the picture's file name.
        picture: The picture as the page shows it, RGB.
        attention: The chains of all layers over the patches, and their |lambda_2|.
        mixed_layers: Places of the layers whose heads, weighted by |lambda_2|, make the
            mixture the page opens with.
        sets: Metastable sets of that mixture, one entry for each number of sets.
        proposed_sets: The number of sets the chain itself proposes; None without.
        head_sets: For each layer and head the metastable sets of that head alone, as
            many as it proposes; None where it has none.
        origin: Versions and digests of weights and input, where they are known.
    """

    title: str
    picture: "Image"
    attention: PictureAttention
    mixed_layers: tuple[int, ...]
    sets: tuple[MetastableSets, ...]
    proposed_sets: int | None
    head_sets: tuple[tuple[MetastableSets | None, ...], ...]
    origin: Mapping[str, Any] = field(default_factory=dict[str, Any])
