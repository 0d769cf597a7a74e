"""The page that cuts an object out of a picture while one marks it."""

import base64
import html
import io
import json
from dataclasses import dataclass
from functools import cached_property
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from attnchain.errors import ArgumentError
from attnchain.models import LoadedModel
from attnchain.page.writing import as_json, asset, head_element, script_elements
from attnchain.vision import (
    DEFAULT_LAYERS,
    Clicks,
    ClickSegmentation,
    cutout,
    polygons,
    read_attention,
)

if TYPE_CHECKING:
    from PIL.Image import Image

SCRIPTS = ("heads", "cut", "drop")
SHOWN_SIDE = 2048
"""Longer side of the picture in the page; files keep its own size."""


@dataclass(frozen=True, eq=False)
class Cutting:
    """A picture that is marked, and the object under the marks.

    Attributes:
        title: What the picture is called.
        picture: The picture.
        model: What reads it, once, when the first mark is made.
    """

    title: str
    picture: "Image"
    model: LoadedModel

    @cached_property
    def _blank(self) -> Clicks:
        return Clicks(read_attention(self.picture, self.model, layers=DEFAULT_LAYERS))

    @property
    def html(self) -> str:
        """The page."""
        title = html.escape(self.title)
        width, height = self.picture.size
        shown = self.picture.copy()
        shown.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
        facts = {"title": self.title, "width": width, "height": height}
        return Template(asset("cut.html")).substitute(
            head=head_element(f"{title}: object", SCRIPTS, served=True),
            title=title,
            model=html.escape(self.model.name),
            note=html.escape(self.model.note),
            next=asset("next.html"),
            picture=f"data:image/jpeg;base64,{_encoded(shown, 'JPEG', quality=90)}",
            facts=as_json(facts),
            scripts=script_elements(SCRIPTS),
        )

    def mask(self, content: bytes) -> dict[str, Any]:
        """The mask under some marks as base64 PNG, and what a file tells of it.

        Args:
            content: The marks, see `marks_in`.

        Raises:
            ArgumentError: They are not written as told there, or none is positive.
            ImageError: A mark lies outside the picture.
        """
        found = self._found(content)
        mask = found.mask("object")
        told = {**found.facts(), "polygons": polygons(mask)}
        return {
            "mask": _encoded(_grey(mask.cpu().numpy()), "PNG"),
            "share": found.area("object"),
            "facts": {"image": self.title, **told},
        }

    def cutout(self, content: bytes) -> dict[str, Any]:
        """The object alone, the rest transparent, as base64 PNG.

        Args:
            content: The marks, see `marks_in`.

        Raises:
            ArgumentError: As `mask`.
            ImageError: As `mask`.
        """
        return {"cutout": _encoded(cutout(self._found(content)), "PNG")}

    def _found(self, content: bytes) -> ClickSegmentation:
        session = self._blank
        for mark in marks_in(content):
            if "box" in mark:
                session = session.box(*mark["box"])
            else:
                session = session.add(*mark["point"], positive=mark["positive"])
        return session.segment()


def marks_in(content: bytes) -> list[dict[str, Any]]:
    """Marks in the order in which they were made.

    Args:
        content: JSON, `[{"point": [x, y], "positive": true}, {"box": [x0, y0, x1,
            y1]}]`, in pixels of the picture.

    Raises:
        ArgumentError: It is anything else.
    """
    try:
        return [_mark(mark) for mark in json.loads(content)]
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ArgumentError(f"these are no marks ({reason})") from error


def _mark(given: dict[str, Any]) -> dict[str, Any]:
    if "box" in given:
        left, top, right, bottom = map(float, given["box"])
        return {"box": (left, top, right, bottom)}
    x, y = map(float, given["point"])
    return {"point": (x, y), "positive": bool(given["positive"])}


def _grey(mask: np.ndarray) -> "Image":
    from PIL import Image

    return Image.fromarray(mask.astype(np.uint8) * 255)


def _encoded(picture: "Image", kind: str, **options: Any) -> str:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return base64.b64encode(stream.getvalue()).decode()
