"""Words in a picture as one self-contained HTML file: every map is in it."""

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from string import Template
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import numpy as np
from jaxtyping import Float
from torch import Tensor

from attnchain.errors import OutputError
from attnchain.files import AbstractResult, Outputs
from attnchain.markov import Direction
from attnchain.page.collecting import shown
from attnchain.page.packing import text_of
from attnchain.page.writing import (
    MAX_BYTES,
    as_jpeg,
    as_json,
    asset,
    colours,
    head_element,
    script_elements,
)
from attnchain.plot import segment_colors
from attnchain.text import WordReading

if TYPE_CHECKING:
    from PIL.Image import Image

SCRIPTS = ("chain", "colours", "stage", "heads", "panels", "png", "words")
MOST_BOUNCES = 10
"""Bounces of the slider, or as many as were asked for."""
SMALLEST_SIDE = 256
"""A smaller picture is shown with each pixel as several: a browser would blur it."""
_FULL = 65535


@dataclass(frozen=True, eq=False)
class WordsPage(AbstractResult):
    """A reading's page as a result that says and writes itself.

    Attributes:
        reading: What `read_words` or `draw_words` returned.
        title: Shown above the picture.
    """

    ending: ClassVar[str] = "-words-page.json"
    beside: ClassVar[tuple[str, ...]] = ("-words-page.html",)

    reading: WordReading
    title: str

    @cached_property
    def html(self) -> str:
        """The page as text, without a network.

        Raises:
            OutputError: It would exceed 15 MB.
        """
        reading = self.reading
        maps = np.stack([walk.flatten().numpy() for walk in self._maps()])
        peaks = maps.max(1)
        codes = (maps / peaks[:, None] * _FULL).round().astype("<u2")
        title = html.escape(self.title)
        whole = Template(asset("words.html")).substitute(
            head=head_element(f"{title}: words", SCRIPTS, served=False),
            title=title,
            model=html.escape(reading.model_name),
            note=html.escape(reading.model_note),
            prompt=html.escape(reading.prompt),
            picture=as_jpeg(_enlarged(shown(reading.picture))),
            facts=as_json({**self._facts(), "peaks": [float(peak) for peak in peaks]}),
            maps=text_of(codes.tobytes()),
            scripts=script_elements(SCRIPTS),
        )
        if (size := len(whole.encode())) > MAX_BYTES:
            message = (
                f"the page would have {size / 1e6:.1f} MB, at most "
                f"{MAX_BYTES / 1e6:.0f} are written; read fewer noise levels, steps or "
                "words, or give a smaller size"
            )
            raise OutputError(message)
        return whole

    @property
    def most_bounces(self) -> int:
        """Bounces that the page has maps of."""
        return max(MOST_BOUNCES, self.reading.bounces)

    @property
    def levels(self) -> Sequence[tuple[str, int | None]]:
        """The places of the slider with their names; of several, first the mixture."""
        names = self.reading.level_names
        own = [(name, number) for number, name in enumerate(names)]
        return own if len(own) == 1 else [(f"all {len(own)} mixed", None), *own]

    def _maps(self) -> Iterator[Float[Tensor, "rows columns"]]:
        """By direction, level, bounces and word, as the script counts them."""
        for direction in get_args(Direction):
            for _, level in self.levels:
                for bounces in range(1, self.most_bounces + 1):
                    yield from self.reading.walks(level, bounces, direction).cpu()

    def _facts(self) -> dict[str, Any]:
        """Everything the scripts need beside the maps."""
        reading = self.reading
        names = reading.segmentation.names
        rgb = (255 * segment_colors(len(names))).round().astype(int).tolist()
        grid = reading.segmentation.attention.grid
        return {
            "model": reading.model_name,
            "rows": grid.rows,
            "columns": grid.columns,
            "words": reading.words,
            "levels": [name for name, _ in self.levels],
            "bounces": reading.bounces,
            "mostBounces": self.most_bounces,
            "direction": reading.direction,
            "damping": reading.damping,
            "error": 0.5 / _FULL,
            "legend": [
                {"name": name, "colour": colour}
                for name, colour in zip(names, rgb, strict=True)
            ],
            "colours": colours(),
        }

    def summary(self) -> str:
        size = len(self.html.encode()) / 1e6
        return f"{self.reading.summary()}\n{size:.1f} MB; open it in a browser"

    def facts(self) -> dict[str, Any]:
        return {**self.reading.facts(), "bytes": len(self.html.encode())}

    def write(self, outputs: Outputs) -> None:
        outputs.path("-words-page.html").write_bytes(self.html.encode())


def _enlarged(picture: "Image") -> "Image":
    from PIL import Image

    times = -(-SMALLEST_SIDE // max(picture.size))
    width, height = picture.size
    return picture.resize((width * times, height * times), Image.Resampling.NEAREST)
