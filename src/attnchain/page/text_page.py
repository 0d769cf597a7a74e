"""A text's chains as one self-contained HTML file."""

import html
from dataclasses import dataclass
from functools import cached_property
from string import Template
from typing import Any, ClassVar, cast

from attnchain.errors import OutputError
from attnchain.files import AbstractResult, Outputs
from attnchain.language import TextReading
from attnchain.operators import AttentionTransition
from attnchain.page.packing import pack_heads, store_heads, text_of
from attnchain.page.writing import (
    MAX_BYTES,
    as_json,
    asset,
    colours,
    head_element,
    rounded,
    script_elements,
)

SCRIPTS = ("chain", "worker", "walker", "colours", "heads", "panels", "png", "text")


@dataclass(frozen=True, eq=False)
class TextPage(AbstractResult):
    """One text's page as a result that says and writes itself.

    Attributes:
        reading: What `read_text` returned.
        title: Shown above the text.
    """

    ending: ClassVar[str] = "-text-page.json"
    beside: ClassVar[tuple[str, ...]] = ("-text-page.html",)

    reading: TextReading
    title: str

    @cached_property
    def html(self) -> str:
        """The page as text, without a network.

        Raises:
            OutputError: It would exceed 15 MB.
        """
        reading, states = self.reading, len(self.reading.kept)
        heads = [cast("AttentionTransition", layer) for layer in reading.heads]
        stored = [store_heads(layer) for layer in heads]
        error = max(head.error for layer in stored for head in layer)
        title = html.escape(self.title)
        whole = Template(asset("text.html")).substitute(
            head=head_element(f"{title}: attention chain", SCRIPTS, served=False),
            title=title,
            model=html.escape(reading.model_name),
            note=html.escape(reading.model_note),
            facts=as_json(_facts(reading, heads[0].q.shape[-1], error)),
            layers="\n".join(
                f'<script type="application/octet-stream" class="layer">'
                f"{text_of(pack_heads(layer, states))}</script>"
                for layer in stored
            ),
            scripts=script_elements(SCRIPTS),
        )
        if (size := len(whole.encode())) > MAX_BYTES:
            layers = len(reading.layers)
            message = (
                f"the page would have {size / 1e6:.1f} MB, at most "
                f"{MAX_BYTES / 1e6:.0f} are written; read fewer layers, about "
                f"{max(1, layers * MAX_BYTES // size)} of these {layers}, or less text"
            )
            raise OutputError(message)
        return whole

    def summary(self) -> str:
        size = len(self.html.encode()) / 1e6
        return f"{self.reading!r}, {size:.1f} MB; open it in a browser"

    def facts(self) -> dict[str, Any]:
        return {**self.reading.facts(), "bytes": len(self.html.encode())}

    def write(self, outputs: Outputs) -> None:
        outputs.path("-text-page.html").write_bytes(self.html.encode())


def _facts(reading: TextReading, width: int, error: float) -> dict[str, Any]:
    """Everything the scripts need beside the chains."""
    groups = reading.groups
    return {
        "model": reading.model_name,
        "rows": 1,
        "columns": len(reading.kept),
        "causal": reading.causal,
        "heads": reading.heads[0].batch_shape[0],
        "width": width,
        "lambda2": [rounded(row) for row in reading.lambda2],
        "damping": reading.damping,
        "treatment": reading.treatment,
        "largestError": error,
        "tokens": _tokens(reading),
        "groups": None if groups is None else {"labels": groups.labels.tolist()},
        "colours": colours(),
    }


def _tokens(reading: TextReading) -> list[tuple[str, str, int]]:
    """For each token what lies before it, what it is, and its state or -1."""
    states = {place: state for state, place in enumerate(reading.kept)}
    tokens: list[tuple[str, str, int]] = []
    end = 0
    for place, (name, span) in enumerate(
        zip(reading.names, reading.spans, strict=True)
    ):
        before, shown = " ", name
        if span is not None:
            piece = reading.text[max(end, span[0]) : span[1]]
            shown = piece.strip() or piece
            before = (
                reading.text[end : span[0]] + piece[: len(piece) - len(piece.lstrip())]
            )
            end = max(end, span[1])
        tokens.append((before, shown or name, states.get(place, -1)))
    return tokens
