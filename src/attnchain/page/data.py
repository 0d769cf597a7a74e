"""What one page shows, before it is stored."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from attnchain.files import AbstractResult, Outputs
from attnchain.markov import MetastableSets
from attnchain.vision import PictureAttention

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class PageData(AbstractResult):
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
    """

    ending: ClassVar[str] = "-page.json"

    title: str
    picture: "Image"
    attention: PictureAttention
    mixed_layers: tuple[int, ...]
    sets: tuple[MetastableSets, ...]
    proposed_sets: int | None
    head_sets: tuple[tuple[MetastableSets | None, ...], ...]

    @cached_property
    def html(self) -> str:
        """The page as text, without a network."""
        from attnchain.page.writing import page_html

        return page_html(self)

    def summary(self) -> str:
        attention = self.attention
        layers, heads = attention.lambda2.shape
        grid, special = attention.grid, attention.removed
        tokens = f"{special} special + " if special else ""
        return (
            f"{attention.model_name}: {attention.model_note}\n"
            f"{layers} layers x {heads} heads over {tokens}{grid.rows} x "
            f"{grid.columns} patches, {len(self.html.encode()) / 1e6:.1f} MB; open it "
            "in a browser"
        )

    def facts(self) -> dict[str, Any]:
        layers, heads = self.attention.lambda2.shape
        read = self.attention.facts()
        kept = {name: read[name] for name in ("model", "model_note", "patches")}
        size = len(self.html.encode())
        return {**kept, "layers": layers, "heads": heads, "bytes": size}

    def write(self, outputs: Outputs) -> None:
        from attnchain.page.writing import write_page

        write_page(outputs.path("-page.html"), self)
