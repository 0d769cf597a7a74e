"""The page as one HTML file: style, scripts, picture and chains inside."""

import base64
import hashlib
import html
import io
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor

from attnchain.capturing import TokenGrid
from attnchain.errors import OutputError
from attnchain.files import AbstractResult, Outputs, write_whole
from attnchain.markov import MetastableSets
from attnchain.page.data import PageData
from attnchain.page.packing import pack_heads, store_heads, text_of
from attnchain.signing import UNSIGNED

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_BYTES = 15_000_000
SCRIPTS = (
    *("chain", "worker", "walker", "colours", "stage", "heads", "panels"),
    *("show", "png", "controls", "main"),
)


@dataclass(frozen=True, eq=False)
class Page(AbstractResult):
    """One page as a result that says and writes itself.

    Attributes:
        data: What `collect` returned.
    """

    ending: ClassVar[str] = "-page.json"
    beside: ClassVar[tuple[str, ...]] = ("-page.html",)

    data: PageData

    @cached_property
    def html(self) -> str:
        """The page as text, without a network."""
        return page_html(self.data)

    @property
    def size(self) -> int:
        """Bytes of the page."""
        return len(self.html.encode())

    def summary(self) -> str:
        attention = self.data.attention
        layers, heads = attention.lambda2.shape
        grid = TokenGrid(
            attention.grid.rows, attention.grid.columns, prefix=attention.removed
        )
        return (
            f"{attention.model_name}: {attention.model_note}\n"
            f"{layers} layers x {heads} heads over {grid}, {self.size / 1e6:.1f} MB; "
            "open it in a browser" + "".join(f"\n{note}" for note in attention.notes)
        )

    def facts(self) -> dict[str, Any]:
        read = self.data.attention.facts()
        layers, heads = self.data.attention.lambda2.shape
        names = ("model", "model_note", "patches", "notes")
        kept = {name: read[name] for name in names}
        return {**kept, "layers": layers, "heads": heads, "bytes": self.size}

    def write(self, outputs: Outputs) -> None:
        outputs.path("-page.html").write_bytes(_within_limit(self.html, self.data))


def write_page(path: str | os.PathLike[str], data: PageData) -> Path:
    """Write one self-contained HTML file; it appears whole or not at all.

    Args:
        path: The file; its folder must exist.
        data: What `collect` returned.

    Returns:
        The file's path.

    Raises:
        OutputError: The page would exceed 15 MB, or cannot be written.
    """
    file = Path(path)
    write_whole(file, _within_limit(page_html(data), data))
    return file


def _within_limit(text: str, data: PageData) -> bytes:
    content = text.encode()
    if len(content) > MAX_BYTES:
        message = (
            f"the page would have {len(content) / 1e6:.1f} MB, at most "
            f"{MAX_BYTES / 1e6:.0f} are written; give a smaller size than "
            f"{data.attention.grid} needs"
        )
        raise OutputError(message)
    return content


def page_html(data: PageData, *, served: bool = False) -> str:
    """Return the page as text.

    Args:
        data: What `collect` returned.
        served: It comes from `attnchain serve` and takes the next picture.
    """
    scripts = (*SCRIPTS, "drop") if served else SCRIPTS
    attention = data.attention
    stored = [store_heads(layer) for layer in attention.heads]
    error = max(head.error for heads in stored for head in heads)
    title = html.escape(data.title)
    return Template(asset("template.html")).substitute(
        head=head_element(f"{title}: attention chain", scripts, served=served),
        title=title,
        model=html.escape(attention.model_name),
        note=html.escape(attention.model_note),
        next=asset("next.html") if served else "",
        picture=as_jpeg(data.picture),
        facts=as_json(_facts(data, error)),
        layers="\n".join(
            f'<script type="application/octet-stream" class="layer">'
            f"{text_of(pack_heads(heads, attention.grid.columns))}</script>"
            for heads in stored
        ),
        scripts=script_elements(scripts),
    )


def asset(name: str) -> str:
    """Return the text of a file that comes with this package."""
    return files("attnchain.page").joinpath(name).read_text("utf-8")


def head_element(title: str, scripts: Sequence[str], *, served: bool) -> str:
    """Return how a page begins, under whose policy only its own parts run.

    Args:
        title: Shown by the browser, escaped.
        scripts: Names of the scripts that may run.
        served: They may ask the server that the page comes from.
    """
    style = asset("page.css")
    return Template(asset("head.html")).substitute(
        title=title,
        policy=_policy(scripts, style, served=served),
        style=style,
        generator=UNSIGNED,
    )


def script_elements(names: Sequence[str]) -> str:
    """Return the scripts as elements, in order, each with its name as id."""
    return "\n".join(
        f'<script id="{name}-js">{asset(f"js/{name}.js")}</script>' for name in names
    )


def _policy(scripts: Sequence[str], style: str, *, served: bool) -> str:
    """A content security policy under which nothing is loaded from outside."""
    allowed = " ".join(_digest(asset(f"js/{name}.js")) for name in scripts)
    rules = (
        "default-src 'none'",
        f"script-src {allowed}",
        f"style-src {_digest(style)}",
        *("img-src data: blob:", "worker-src blob:"),
        *("base-uri 'none'", "form-action 'none'"),
    )
    return "; ".join([*rules, "connect-src 'self'"] if served else rules)


def _facts(data: PageData, error: float) -> dict[str, Any]:
    """Everything the scripts need beside the chains."""
    attention = data.attention
    heads, _, width = attention.heads[0].q.shape
    return {
        "title": data.title,
        "model": attention.model_name,
        "note": attention.model_note,
        "origin": dict(data.origin),
        "rows": attention.grid.rows,
        "columns": attention.grid.columns,
        "removed": attention.removed,
        "heads": heads,
        "width": width,
        "lambda2": [rounded(row) for row in attention.lambda2],
        "mixedLayers": list(data.mixed_layers),
        "largestError": error,
        "sets": [_set_facts(sets) for sets in data.sets],
        "proposedSets": data.proposed_sets,
        "headSets": [
            [sets and _set_facts(sets) for sets in row] for row in data.head_sets
        ],
        "colours": colours(),
    }


def _set_facts(sets: MetastableSets) -> dict[str, Any]:
    """Sets as the page shows them: of each patch its set and its membership in it."""
    own = sets.memberships.amax(1)
    return {
        "labels": "".join(map(str, sets.labels.tolist())),
        "memberships": _base64((own * 65535).round().numpy().astype("<u2").tobytes()),
        "prevalence": rounded(sets.prevalence),
        "retention": rounded(sets.retention),
    }


def rounded(values: Tensor) -> list[float | None]:
    """Return six digits of each value; None where a set without patches has none."""
    return [float(f"{x:.6g}") if math.isfinite(x) else None for x in values.tolist()]


def colours() -> str:
    """The viridis table: 256 colours of six hexadecimal digits."""
    from matplotlib import colormaps

    table = colormaps["viridis"](np.arange(256), bytes=True)[:, :3]
    return table.tobytes().hex()


def as_jpeg(picture: "Image") -> str:
    """Return a picture as the address of itself."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{_base64(stream.getvalue())}"


def _digest(text: str) -> str:
    return f"'sha256-{_base64(hashlib.sha256(text.encode()).digest())}'"


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def as_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
