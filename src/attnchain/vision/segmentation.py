"""What every way to segment returns: named segments that draw and save themselves."""

import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attnchain.errors import ArgumentError
from attnchain.files import AbstractResult, Outputs
from attnchain.vision import figures
from attnchain.vision.borders import other_objects
from attnchain.vision.exports import EXPORTS, REST, coco, write_exports
from attnchain.vision.picture_attention import PictureAttention

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

OBJECT_NAMES = (REST, "object")
"""What the labels 0 and 1 stand for where one object is asked for."""
UNSURE = 0.5
"""Below this confidence a mask is said to be doubtful."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Segmentation(AbstractResult):
    """A picture divided among named segments.

    Attributes:
        names: What the labels stand for.
        labels: Index into `names` of every pixel.
        confidence: How far it can be trusted, in [0, 1]; None where nothing is known.
            `segment_object` says what it estimates.
    """

    beside: ClassVar[tuple[str, ...]] = tuple(form.ending for form in EXPORTS.values())
    files: ClassVar[tuple[str, ...]] = ("labels", "figure")
    """What is saved when nobody says otherwise."""
    kind: ClassVar[str]
    """Which question it answers, in one word."""
    title: ClassVar[str]
    """The same as the heading of a figure."""

    names: tuple[str, ...]
    labels: Int[Tensor, "height width"]
    confidence: float | None = None

    @property
    @abstractmethod
    def maps(self) -> Float[Tensor, "maps height width"]:
        """What the labels were decided by, at the same size.

        One map for each name, or the one map of the object. They are made when they
        are asked for where that is cheap.
        """

    @property
    @abstractmethod
    def picture(self) -> "Image | None":
        """The picture; None where it is not known."""

    @property
    @abstractmethod
    def heading(self) -> str:
        """What it was read from, in one line."""

    @property
    def legend(self) -> Sequence[str]:
        """What a figure says beside each name."""
        return self.names

    @property
    def remarks(self) -> Sequence[str]:
        """What must be said before the findings, in sentences."""
        return ()

    @abstractmethod
    def panels(self) -> "list[Callable[[Axes], object]]":
        """What is drawn beside the labels, left to right."""

    def mask(self, name: str) -> Bool[Tensor, "height width"]:
        """The pixels of one segment.

        Args:
            name: One of `names`.

        Raises:
            ArgumentError: There is no such segment.
        """
        if name not in self.names:
            message = f"there is no segment {name!r}; there are {', '.join(self.names)}"
            raise ArgumentError(message)
        return self.labels == self.names.index(name)

    def instances(self, name: str) -> Bool[Tensor, "instances height width"]:
        """The masks of what stands apart in one segment, largest first.

        Metastable sets are parted where they are narrow; one object is one mask.

        Args:
            name: One of `names`.

        Raises:
            ArgumentError: There is no such segment.
        """
        mask = self.mask(name)
        return mask[None][: int(mask.any())]

    def area(self, name: str) -> float:
        """The share of the pixels that lie in one segment.

        Args:
            name: One of `names`.
        """
        return int(self.mask(name).count_nonzero()) / max(1, self.labels.numel())

    def plot(self, *, width: float | None = None) -> "Figure":
        """Draws what it was decided by and the segments, side by side.

        Args:
            width: Of the figure in inches, as it will be printed: 3.25 for a column of
                a paper, 6.75 for both. Panels then stand in rows, and text has 8
                points. By default one row for a screen.

        Returns:
            A matplotlib figure that belongs to no global state.

        Raises:
            ArgumentError: A width that is no number, or less than 3.2 inches.
        """
        found = figures.segments(self.labels, self.picture, self.legend, self.title)
        return figures.side_by_side(
            [*self.panels(), found],
            heading=self.heading,
            shape=self.labels.shape,
            names=len(self.names),
            width=width,
        )

    def findings(self) -> Sequence[str]:
        """What was found, in a line for each name."""
        return [f"{name}: {self.area(name):.1%} of the pixels" for name in self.names]

    def summary(self) -> str:
        return "\n".join([self.heading, *self.findings()])

    def facts(self) -> dict[str, Any]:
        return {
            "mode": self.kind,
            "names": self.names,
            "areas": [self.area(name) for name in self.names],
            "confidence": self.confidence,
        }

    @property
    def soft_map(self) -> Float[Tensor, "height width"] | None:
        """The map in [0, 1] of one object; None where segments share the picture."""
        return None

    def to_coco(self, *, image_id: int = 1, file_name: str = "") -> dict[str, Any]:
        """The segments as a dictionary in COCO's format, with run lengths (RLE).

        Every name but "rest" is a category, and each of its `instances` an annotation.

        Args:
            image_id: Number of the picture.
            file_name: Its file, as the dictionary shall name it.

        Returns:
            `{"images": ..., "annotations": ..., "categories": ...}`, which
            `pycocotools.coco.COCO` reads once it is stored as JSON.

        Raises:
            MissingExtraError: The package pycocotools is absent.

        Sources:
            Lin et al., Microsoft COCO, 2014 (arXiv 1405.0312).
        """
        return coco(self, image_id=image_id, file_name=file_name)

    def write(self, outputs: Outputs, files: Sequence[str] | None = None) -> None:
        write_exports(self, outputs, self.files if files is None else files)

    def save(
        self,
        folder: str | os.PathLike[str],
        *,
        stem: str,
        files: Sequence[str] | None = None,
    ) -> tuple[Path, ...]:
        """Writes the segmentation as files, all of them or none.

        Args:
            folder: Where to; it is made where it is missing.
            stem: What the names of the files begin with.
            files: Which, among labels (index PNG), figure, map (of an object), cutout
                (object with the rest transparent), overlay, polygons (JSON) and coco
                (JSON); by default labels, figure and map. The numbers are always
                written.

        Returns:
            The files.

        Raises:
            ArgumentError: A file is unknown, or does not fit what was asked.
            OutputError: They cannot be written, or a file of that name is there that
                was not written by attnchain or was changed since.
            MissingExtraError: COCO JSON needs the package pycocotools.
        """
        return self._save(Path(folder), stem, partial(self.write, files=files))


@dataclass(frozen=True, eq=False, kw_only=True)
class PictureSegmentation(Segmentation):
    """A segmentation read from the attention inside one picture.

    Attributes:
        attention: The chains it was read from.
    """

    attention: PictureAttention

    @property
    def picture(self) -> "Image":
        return self.attention.picture

    @property
    def heading(self) -> str:
        return self.attention.heading

    def facts(self) -> dict[str, Any]:
        rank = self.attention.rank.facts()
        return {**self.attention.facts(), **super().facts(), "token_rank": rank}

    def summary(self) -> str:
        grid, rank = self.attention.grid, self.attention.rank
        size = f"{grid.rows} x {grid.columns} patches; {rank.summary()}"
        said = [*self.attention.notes, *self.remarks, *self.findings()]
        return "\n".join([self.heading, size, *said])


@dataclass(frozen=True, eq=False, kw_only=True)
class ObjectSegmentation(PictureSegmentation):
    """One object of a picture and the rest; `names` are "rest" and "object".

    Attributes:
        soft: The map in [0, 1] that the mask is cut from.
        start: Patch the object was found from; None for the main object.
        objects: Regions that stand out where the main object was looked for, the
            object among them; 0 where none does.
    """

    kind: ClassVar[str] = "object"
    title: ClassVar[str] = "object"
    files: ClassVar[tuple[str, ...]] = ("labels", "figure", "map")

    soft: Float[Tensor, "height width"]
    start: int | None = None
    objects: int | None = None

    @property
    def maps(self) -> Float[Tensor, "1 height width"]:
        return self.soft[None]

    def instances(self, name: str) -> Bool[Tensor, "instances height width"]:
        found = super().instances(name)
        if name != OBJECT_NAMES[1] or not len(found) or (self.objects or 0) < 2:
            return found
        patches = self.attention.grid.n_patches
        others = other_objects(self.soft, found[0], self.picture, patches=patches)
        return torch.stack([found[0], *others])

    @property
    def remarks(self) -> Sequence[str]:
        if self.confidence is None or self.objects is None:
            return ()
        said = f"confidence {self.confidence:.2f}"
        if self.confidence < UNSURE:
            said += ": perhaps there is no one object that stands out"
        remarks = [said]
        if self.objects > 1:
            remarks.append(
                f"{self.objects} regions stand out; this is the heaviest "
                "(instances('object') has all)"
            )
        if self.attention.objectness is not None:
            remarks.append(f"what is object is told so: {self.attention.probe_note}")
        return remarks

    def panels(self) -> "list[Callable[[Axes], object]]":
        if self.start is None:
            drawn = [figures.picture(self.picture), figures.seen(self.attention)]
            objectness = self.attention.objectness
            if objectness is not None:
                told = self.attention.grid.to_map(objectness)
                drawn.append(figures.one_map(told, title="objectness", label="0 to 1"))
        else:
            drawn = figures.walk(self.attention, self.start)
        title, label = "map the mask is cut from", "0 to 1"
        return [*drawn, figures.one_map(self.soft, title=title, label=label)]

    def facts(self) -> dict[str, Any]:
        start = {} if self.start is None else {"start_patch": self.start}
        share = {"object_share": self.area("object"), "objects": self.objects}
        return {**super().facts(), **start, **share}

    @property
    def soft_map(self) -> Float[Tensor, "height width"]:
        return self.soft
