"""Segments by clicks, scribbles and boxes: a session of marks that can be undone."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attnchain.errors import ArgumentError, ImageError
from attnchain.maps import enlarge, otsu_in_range
from attnchain.markov import propagate
from attnchain.operators import AbstractTransition
from attnchain.vision import figures
from attnchain.vision.corrections import Canvas, Found, canvas, corrected, proposed
from attnchain.vision.objects import as_point
from attnchain.vision.picture_attention import PictureAttention
from attnchain.vision.segmentation import OBJECT_NAMES, PictureSegmentation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Pixel = tuple[int, int]

_MARGIN = 0.5
_NOISE = 0.1
_FLOOR = 1e-2


@dataclass(frozen=True)
class Mark:
    """One click, stroke or box.

    Attributes:
        pixels: (x, y) of the pixels marked; none in a box.
        patches: Patches marked, or inside the box.
        positive: On the object, or off it.
        box: Left, top, right and bottom of a box in pixels.
    """

    pixels: tuple[Pixel, ...]
    patches: tuple[int, ...]
    positive: bool = True
    box: tuple[int, int, int, int] | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class ClickSegmentation(PictureSegmentation):
    """The object that the marks of a session ask for; `names` are "rest" and "object".

    `maps` is the score.

    Attributes:
        score: Positive on the object, as far as the marks alone decide.
        marks: The marks it follows from.
    """

    kind: ClassVar[str] = "clicks"
    title: ClassVar[str] = "object under the marks"

    score: Float[Tensor, "height width"]
    marks: tuple[Mark, ...]

    @property
    def maps(self) -> Float[Tensor, "1 height width"]:
        return self.score[None]

    def panels(self) -> "list[Callable[[Axes], object]]":
        on = [pixel for mark in self.marks if mark.positive for pixel in mark.pixels]
        off = [p for mark in self.marks if not mark.positive for p in mark.pixels]
        shown = figures.picture(self.picture, title="picture and marks", on=on, off=off)
        label = "0 at the border"
        return [shown, figures.one_map(self.score, title="score", label=label)]

    def facts(self) -> dict[str, Any]:
        marks = [asdict(mark) for mark in self.marks]
        return {**super().facts(), "object_share": self.area("object"), "marks": marks}


@dataclass(frozen=True, eq=False)
class Clicks:
    """A session of marks on one picture; every change gives a new session.

    Attributes:
        attention: What `read_attention` returned.
        marks: The marks so far, oldest first.
        before: The session without the latest mark, where it is known: what was found
            there is corrected, not found again.
    """

    attention: PictureAttention
    marks: tuple[Mark, ...] = ()
    before: "Clicks | None" = field(default=None, repr=False)

    def add(self, x: float, y: float, *, positive: bool = True) -> "Clicks":
        """A click at (x, y) in pixels of the picture.

        Raises:
            ImageError: The point lies outside the picture.
        """
        return self.scribble([(x, y)], positive=positive)

    def scribble(
        self, points: Sequence[tuple[float, float]], *, positive: bool = True
    ) -> "Clicks":
        """A stroke along straight lines from point to point.

        Raises:
            ImageError: A point lies outside the picture.
            ArgumentError: There is no point, or one is no pair of numbers.
        """
        if not points:
            raise ArgumentError("a scribble needs at least one point")
        at, size = self.attention.grid.patch_at, self.attention.size
        corners = [as_point(point, "every point") for point in points]
        for x, y in corners:
            at(x, y, **size)
        stroke = _stroke(corners)
        patches = tuple(dict.fromkeys(at(x, y, **size) for x, y in stroke))
        pixels = tuple(dict.fromkeys((int(x), int(y)) for x, y in stroke))
        return self._with(Mark(pixels, patches, positive))

    def box(self, left: float, top: float, right: float, bottom: float) -> "Clicks":
        """A box around the object; a later box replaces it.

        Raises:
            ArgumentError: A corner is no pair of numbers.
            ImageError: The box does not overlap the picture, or is empty.
        """
        (left, top), (right, bottom) = (
            as_point(corner, "every corner of the box")
            for corner in ((left, top), (right, bottom))
        )
        width, height = self.attention.picture.size
        x0, x1 = max(left, 0), min(right, width)
        y0, y1 = max(top, 0), min(bottom, height)
        if not (x1 - x0 >= 1 and y1 - y0 >= 1):
            message = (
                f"the box ({left:g}, {top:g}, {right:g}, {bottom:g}) covers no pixel; "
                f"give left < right in [0, {width}] and top < bottom in [0, {height}]"
            )
            raise ImageError(message)
        grid = self.attention.grid
        rows = (torch.arange(grid.rows) + 0.5) * height / grid.rows
        columns = (torch.arange(grid.columns) + 0.5) * width / grid.columns
        down, across = (rows >= y0) & (rows < y1), (columns >= x0) & (columns < x1)
        middle = grid.patch_at((x0 + x1) / 2, (y0 + y1) / 2, **self.attention.size)
        inside = (down[:, None] & across).flatten()
        patches = inside.nonzero()[:, 0].tolist() or [middle]
        box = (int(x0), int(y0), round(x1), round(y1))
        others = tuple(mark for mark in self.marks if mark.box is None)
        return replace(self, marks=others, before=None)._with(
            Mark((), tuple(patches), True, box)
        )

    def undo(self) -> "Clicks":
        """The session without its latest mark.

        Raises:
            ArgumentError: There is none.
        """
        if not self.marks:
            raise ArgumentError("there is no mark to undo")
        return self.before or replace(self, marks=self.marks[:-1])

    def segment(self) -> ClickSegmentation:
        r"""The object under the marks, each mark correcting what the ones before gave.

        The box, or else the first positive mark, proposes $u = \log(f / \theta)$ with
        $f = S e$ its walk out and back and $\theta$ Otsu's threshold. A walk over the
        pixels, at most 400 along the longer side, decides: it seldom crosses an edge
        of the picture, and ends with weight 0.01 at every step by what u, the colour
        of the pixel and $S m$ say, m the mask of the proposal.

        Every other mark, in order, that lies on the wrong side turns what is around it,
        and the walk agrees with, to its own side. A click turns pixels within its
        reach, beyond it as many again, the nearest, and 0.03 of the object. It reaches
        to the border it should have been beyond, half the way to a mark of the other
        side, and no further than the clicks before it. A stroke is not bounded. A mark
        that is on the right side changes nothing, but holds its place. So click the
        middle of what is wrong, the largest error first: no click can undo the rest.

        Outside a box nothing is object unless marks say so; without a box, the first
        positive mark gives one region.

        Returns:
            `ClickSegmentation`.

        Raises:
            ArgumentError: No positive mark.

        Sources:
            Grady, Random walks for image segmentation, IEEE TPAMI 28 (2006), and its
            extension by prior models (CVPR 2005). Constants chosen with one data set
            left out, see docs/segmentation.md.
        """
        return self.cut(_corrected)

    def cut(self, rule: Callable[["Clicks"], Tensor]) -> ClickSegmentation:
        """The object that a rule finds under the marks.

        Args:
            rule: From the session to a score at picture size, positive on the object.

        Returns:
            `ClickSegmentation`.

        Raises:
            ArgumentError: No positive mark.
        """
        if not any(mark.positive for mark in self.marks):
            raise ArgumentError("mark the object first: there is no positive mark")
        score = rule(self)
        return ClickSegmentation(
            names=OBJECT_NAMES,
            labels=_mask(self.marks, score).long(),
            score=score,
            attention=self.attention,
            marks=self.marks,
        )

    def _with(self, mark: Mark) -> "Clicks":
        return replace(self, marks=(*self.marks, mark), before=self)

    @cached_property
    def _canvas(self) -> Canvas:
        """The picture as it is walked on, made once for all sessions."""
        if self.before is not None:
            return self.before._canvas
        attention = self.attention
        return canvas(attention.picture, attention.grid, attention.out_and_back)

    @property
    def _proposal(self) -> Mark | None:
        """The box, or else the first positive mark."""
        boxes = [mark for mark in self.marks if mark.box]
        return next(iter(boxes or [mark for mark in self.marks if mark.positive]), None)

    @cached_property
    def _found(self) -> Found:
        """The object: the one before corrected, or all from the proposal on."""
        proposal, before = self._proposal, self.before
        if proposal is None:
            raise ArgumentError("mark the object first: there is no positive mark")
        if before is not None and before._proposal is proposal:
            return self._corrected(before._found, self.marks)
        marks, found = (proposal,), self._proposed(proposal)
        for mark in self.marks:
            if mark is not proposal:
                marks = (*marks, mark)
                found = self._corrected(found, marks)
        return found

    def _proposed(self, proposal: Mark) -> Found:
        pixels, around = self._places(proposal.pixels), self._around(proposal)
        return proposed(self._canvas, self._odds((proposal,)), pixels, around)

    def _corrected(self, found: Found, marks: Sequence[Mark]) -> Found:
        """The object found by all marks but the last, corrected by that."""
        pixels, sign = self._places(marks[-1].pixels), marks[-1].positive
        return corrected(self._canvas, found, self._odds(marks), pixels, sign=sign)

    def _odds(self, marks: Sequence[Mark]) -> np.ndarray:
        """Logarithm of odds: the walk of the proposal, and what other marks move."""
        drawn, proposal = self._canvas, self._proposal or marks[0]
        seen = propagate(drawn.chain, proposal.patches, 1)
        large = drawn.enlarged(seen)
        theta = otsu_in_range(torch.from_numpy(large[self._around(proposal)]))
        theta = min([theta, *(float(large[p]) for p in self._places(proposal.pixels))])
        floor = _FLOOR * float(seen.max())
        odds = np.log((large + floor) / (theta + floor))
        signs = _signs(marks)
        if not signs:
            return odds
        patches = torch.tensor(list(signs), device=seen.device)
        sign = torch.tensor(list(signs.values())).to(seen)
        before = sign * ((seen[patches] + floor) / (theta + floor)).log()
        missing = sign * (_MARGIN - before).clamp_min(0)
        return odds + drawn.enlarged(_regression(drawn.chain, patches, missing))

    def _around(self, proposal: Mark) -> Bool[np.ndarray, "height width"]:
        """The pixels of the box, or all."""
        around = np.ones(self._canvas.shape, dtype=bool)
        if proposal.box:
            left, top, right, bottom = proposal.box
            (y0, x0), (y1, x1) = self._places([(left, top), (right - 1, bottom - 1)])
            around[:] = False
            around[y0 : y1 + 1, x0 : x1 + 1] = True
        return around

    def _places(self, pixels: Sequence[Pixel]) -> list[Pixel]:
        """(row, column) on the canvas of (x, y) in the picture, each once."""
        return self._canvas.within(pixels, self.attention.picture)


def _stroke(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points along a polyline, no further apart than a pixel."""
    path = points[:1]
    for (x0, y0), (x1, y1) in pairwise(points):
        steps = max(1, int(max(abs(x1 - x0), abs(y1 - y0))))
        path += [
            (x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps)
            for i in range(1, steps + 1)
        ]
    return path


def _corrected(session: Clicks) -> Tensor:
    """The score of all marks, at picture size."""
    score = torch.from_numpy(session._found.score).float()
    return enlarge(score, **session.attention.size)


def _signs(marks: Sequence[Mark]) -> dict[int, float]:
    """1 or -1 for each patch that was marked, the latest mark deciding."""
    return {
        patch: 1.0 if mark.positive else -1.0
        for mark in marks
        if mark.box is None
        for patch in mark.patches
    }


def _regression(
    chain: AbstractTransition, patches: Tensor, values: Tensor
) -> Float[Tensor, " n"]:
    """Carries values at some patches to those that share their walk."""
    marked = torch.nn.functional.one_hot(patches, chain.n_states).to(values)
    columns = chain.pull(marked)
    own = columns.gather(1, patches[:, None])
    columns = columns / own
    kernel = columns[:, patches].mT + _NOISE * torch.eye(len(patches)).to(values)
    return torch.linalg.solve(kernel, (1 + _NOISE) * values) @ columns


def _mask(marks: Sequence[Mark], score: Tensor) -> Bool[Tensor, "height width"]:
    """Positive scores; marked pixels as marked."""
    mask = score > 0
    for mark in marks:
        for x, y in mark.pixels:
            mask[y, x] = mark.positive
    return mask
