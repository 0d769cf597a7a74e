"""A contact sheet: all answers of a folder on one page, the doubtful ones first."""

import base64
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, ClassVar

import numpy as np
import torch

from attnchain.errors import ImageError
from attnchain.files import AbstractResult, Outputs, described
from attnchain.folder.job import RECORD
from attnchain.models import read_picture
from attnchain.plot import tinted
from attnchain.vision import EXPORTS

SIDE = 320
"""Longer side of what is shown of a picture, in pixels."""


@dataclass(frozen=True)
class Entry:
    """One picture on the sheet.

    Attributes:
        name: What it is called there.
        facts: The numbers of its answer; empty where there is none.
        thumbnail: The picture with its segments tinted, as JPEG; None where neither
            the picture nor its segments can be read.
        reason: Why there is no answer.
        gone: Whether the picture no longer lies where it was read.
    """

    name: str
    facts: Mapping[str, Any]
    thumbnail: bytes | None = None
    reason: str = ""
    gone: bool = False

    @property
    def rank(self) -> tuple[int, float, str]:
        """Failures first, then by confidence, then what has none."""
        confidence = self.facts.get("confidence")
        if self.reason:
            return 0, 0.0, self.name
        return (2, 0.0, self.name) if confidence is None else (1, confidence, self.name)


@dataclass(frozen=True)
class Sheet(AbstractResult):
    """All answers of a folder, see `contact_sheet`.

    Attributes:
        title: The heading.
        entries: The pictures, the most doubtful first.
    """

    beside: ClassVar[tuple[str, ...]] = (".html",)

    title: str
    entries: tuple[Entry, ...]

    def summary(self) -> str:
        failed = sum(bool(entry.reason) for entry in self.entries)
        known = sum("confidence" in entry.facts for entry in self.entries)
        gone = sum(entry.gone for entry in self.entries)
        order = (
            "failures, then the least confident first" if known else "failures first"
        )
        missing = f", {gone} whose picture is not where it was" if gone else ""
        counts = f"{len(self.entries)} pictures, {failed} without an answer{missing}"
        return f"{counts}; {order}"

    def facts(self) -> dict[str, Any]:
        shown = [
            {
                "picture": entry.name,
                "confidence": entry.facts.get("confidence"),
                "gone": entry.gone,
            }
            for entry in self.entries
        ]
        return {"pictures": shown}

    def write(self, outputs: Outputs) -> None:
        outputs.path(".html").write_text(self.html, encoding="utf-8")

    @cached_property
    def html(self) -> str:
        """The page, with everything inside."""
        page = files("attnchain.folder").joinpath("sheet.html").read_text("utf-8")
        return Template(page).substitute(
            title=escape(self.title),
            summary=escape(self.summary()),
            entries="\n".join(map(_figure, self.entries)),
        )


def contact_sheet(folder: Path) -> Sheet:
    """Collects the answers below a folder that attnchain wrote to.

    Args:
        folder: The folder of `--out`; thumbnails show the pictures where they still
            lie where they were read, and their segments alone otherwise.

    Raises:
        ImageError: There is no such folder, or no answer in it.
    """
    if not folder.is_dir():
        raise ImageError(f"expected a folder of answers, but there is none: {folder}")
    found = sorted((*_answered(folder), *_failed(folder)), key=lambda entry: entry.rank)
    if not found:
        message = (
            f"{folder} holds no answer of `attnchain segment`: give the folder that "
            "its --out named"
        )
        raise ImageError(message)
    return Sheet(str(folder), tuple(found))


def _answered(folder: Path) -> Iterator[Entry]:
    for file in sorted(folder.rglob("*.json")):
        told = described(file)
        if "mode" in told and "image" in told:
            name = file.relative_to(folder).with_suffix("").as_posix()
            gone = not Path(told["image"]).exists()
            yield Entry(name, told, _thumbnail(file, told), gone=gone)


def _failed(folder: Path) -> Iterator[Entry]:
    failed = described(folder / f"{RECORD}.json").get("failed", {})
    return (Entry(name, {}, None, reason) for name, reason in failed.items())


def _thumbnail(file: Path, told: Mapping[str, Any]) -> bytes | None:
    from PIL import Image

    try:
        picture = read_picture(told["image"])
    except ImageError:
        picture = None
    try:
        with Image.open(
            file.with_name(f"{file.stem}{EXPORTS['labels'].ending}")
        ) as stored:
            labels = stored.copy()
    except OSError:
        labels = None
    if labels is not None:
        labels.thumbnail((SIDE, SIDE), Image.Resampling.NEAREST)
        below = None if picture is None else picture.resize(labels.size)
        clear = 0 if "rest" in told["names"] else None
        picture = tinted(torch.from_numpy(np.array(labels)), below, clear=clear)
    if picture is None:
        return None
    picture.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=80)
    return stream.getvalue()


def _figure(entry: Entry) -> str:
    if entry.thumbnail is None:
        shown = f'<div class="none">{escape(entry.reason) or "no picture"}</div>'
    else:
        data = base64.b64encode(entry.thumbnail).decode()
        name = escape(entry.name, quote=True)
        shown = f'<img loading="lazy" alt="{name}" src="data:image/jpeg;base64,{data}">'
    kind = ' class="failed"' if entry.reason else ""
    caption = f"{escape(entry.name)}<small>{escape(_said(entry))}</small>"
    return f"<figure{kind}>{shown}<figcaption>{caption}</figcaption></figure>"


def _said(entry: Entry) -> str:
    facts, said = entry.facts, ["its picture is not where it was"] if entry.gone else []
    if entry.reason:
        return "no answer"
    if facts.get("confidence") is not None:
        said.append(f"confidence {facts['confidence']:.2f}")
    if facts.get("object_share") is not None:
        said.append(f"object {facts['object_share']:.0%} of the picture")
    else:
        said.append(f"{len(facts['names'])} sets")
    return ", ".join(said)
