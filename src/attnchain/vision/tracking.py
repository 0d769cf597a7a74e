"""Segments followed through the frames of a video: a walk back to the first frame."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import interpolate, one_hot

from attnchain.capturing import TokenGrid
from attnchain.errors import ArgumentError, ImageError
from attnchain.maps import enlarge
from attnchain.vision import figures
from attnchain.vision.borders import border_walk
from attnchain.vision.exports import REST
from attnchain.vision.frame_walk import Seen, read_tokens, walk_back
from attnchain.vision.marks import Prompt
from attnchain.vision.segmentation import OBJECT_NAMES, Segmentation
from attnchain.vision.segments import segment

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL.Image import Image

    from attnchain.models import LoadedModel

MOST_LABELS: Final = 256
"""What an index PNG tells apart."""
_RECENT: Final = 7


@dataclass(frozen=True, eq=False, kw_only=True)
class FrameSegmentation(Segmentation):
    """One frame of a video; the same label is the same object in all of them.

    Attributes:
        frame: The picture.
        number: Of the frame, from 0.
        memberships: Of every patch, the probability that the walk back from it ends
            in each of `names`.
        grid: Rows and columns of the patches.
        read_from: The model, in one line.
    """

    kind: ClassVar[str] = "video"
    title: ClassVar[str] = "followed from the first frame"

    frame: "Image"
    number: int
    memberships: Float[Tensor, "n names"]
    grid: TokenGrid
    read_from: str

    @property
    def maps(self) -> Float[Tensor, "names height width"]:
        return enlarge(self.grid.to_map(self.memberships.mT), **_size(self.frame))

    @property
    def picture(self) -> "Image":
        return self.frame

    @property
    def heading(self) -> str:
        return self.read_from

    @property
    def lost(self) -> tuple[str, ...]:
        """Names, other than "rest", that have no pixel in this frame."""
        seen = set(self.labels.unique().tolist())
        named = enumerate(self.names)
        return tuple(name for i, name in named if i not in seen and name != REST)

    @property
    def remarks(self) -> Sequence[str]:
        return [f"{name} is not seen in this frame" for name in self.lost]

    def panels(self) -> "list[Callable[[Axes], object]]":
        return [figures.picture(self.frame, title=f"frame {self.number}")]

    def summary(self) -> str:
        return "\n".join([self.heading, *self.remarks, *self.findings()])

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "frame": self.number, "lost": self.lost}


@dataclass(frozen=True, eq=False)
class Track:
    """Objects followed up to one frame; every further frame gives a new track.

    Attributes:
        current: The segments of the latest frame.
        model: What reads the frames.
        size: Longer side a frame is resized to for the model, in pixels.
        border: Whether objects end at edges of the picture, see `border_walk`.
    """

    current: FrameSegmentation
    model: "LoadedModel"
    size: int
    border: bool
    _first: Seen
    _recent: tuple[Seen, ...]

    def follow(self, frame: "Image") -> "Track":
        r"""The objects in the next frame.

        A walker steps from patch i of this frame to patch j of the first frame or
        one of the seven latest, with probability
        $P_{ij} \propto e^{\cos(x_i, x_j) / 0.02}$, x the states of the patches half
        way, two thirds and five sixths through the model, and only to patches within
        0.3 of the picture's longer side. It goes on from frame to frame until it
        reaches the first one: the probability to end in a segment there is the
        patch's membership, P times the memberships before. Within half a patch of an
        object's border a walk over pixels decides.

        Args:
            frame: The next picture, of the same size.

        Returns:
            The new track.

        Raises:
            ImageError: The frame has another size, or is no picture.

        Sources:
            Jabri et al., Space-time correspondence as a contrastive random walk, 2020
            (arXiv 2006.14613); Caron et al., DINO, 2021 (arXiv 2104.14294).
        """
        before = self.current
        tokens, grid = read_tokens(frame, self.model, size=self.size)
        if frame.size != before.frame.size:
            message = (
                f"every frame must have the size of the first one, "
                f"{before.frame.size}, but frame {before.number + 1} has {frame.size}"
            )
            raise ImageError(message)
        context = dict.fromkeys((self._first, *self._recent))
        seen = Seen(tokens, walk_back(tokens, [*context], grid))
        found = replace(
            before,
            frame=frame,
            number=before.number + 1,
            memberships=seen.memberships,
            labels=_labels(seen.memberships, grid, frame, self.border),
        )
        recent = (*self._recent, seen)[-_RECENT:]
        return replace(self, current=found, _recent=recent)


def begin_track(
    frame: "Image",
    model: "LoadedModel",
    *,
    labels: Int[Tensor, "height width"] | None = None,
    names: Sequence[str] | None = None,
    prompt: Prompt | None = None,
    sets: int | Literal["auto"] | None = None,
    size: int = 518,
) -> Track:
    """Finds what is followed in the first frame of a video, or takes it.

    Args:
        frame: The first frame, a Pillow picture.
        model: What `attnchain.models.load` returned.
        labels: Number of the object of every pixel, 0 for the rest.
        names: What the labels stand for, where it is not the rest and objects.
        prompt: Or points and a box, see `segment_prompt`.
        sets: Or the number of metastable sets, "auto" for as many as the chain has.
            Without any of these the main object is followed.
        size: Longer side a frame is resized to for the model, in pixels.

    Returns:
        `Track`; `track.follow(frame)` takes the next frame.

    Raises:
        ArgumentError: More than one of prompt, labels and sets is given, or labels
            have another size than the frame, or stand for no name.
        ImageError: This is no Pillow picture, or a point lies outside of it.
        GridError: The size is less than one patch.
        UnsupportedModelError: The model has no stack of layers over patches.
    """
    asked = {"prompt": prompt, "labels": labels, "sets": sets}
    given = [name for name, value in asked.items() if value is not None]
    if len(given) > 1:
        message = f"choose one of {' and '.join(given)}: they exclude each other"
        raise ArgumentError(message)
    if labels is None:
        main = not given
        count = None if sets == "auto" else sets
        found = segment(frame, model=model, prompt=prompt, sets=count, foreground=main)
        labels, names = found.labels, found.names
    names = _check_labels(frame, labels, names)
    tokens, grid = read_tokens(frame, model, size=size)
    each = one_hot(labels.long(), len(names)).permute(2, 0, 1)[None].float()
    shares = interpolate(each, (grid.rows, grid.columns), mode="area")[0]
    seen = Seen(tokens, shares.flatten(1).mT.to(tokens))
    current = FrameSegmentation(
        names=tuple(names),
        labels=labels,
        frame=frame,
        number=0,
        memberships=seen.memberships,
        grid=grid,
        read_from=f"{model.name}: {model.note}",
    )
    return Track(current, model, size, names[0] == REST, seen, ())


def segment_video(
    frames: "Iterable[Image]",
    *,
    model: "LoadedModel | None" = None,
    labels: Int[Tensor, "height width"] | None = None,
    prompt: Prompt | None = None,
    sets: int | Literal["auto"] | None = None,
    size: int = 518,
) -> "Iterator[FrameSegmentation]":
    """Segments the first frame of a video and follows what it finds.

    Args:
        frames: Pillow pictures of one size; each is read when its turn comes.
        model: What `attnchain.models.load` returned; by default the packaged model.
        labels: As in `begin_track`.
        prompt: As in `begin_track`.
        sets: As in `begin_track`.
        size: Longer side a frame is resized to for the model, in pixels.

    Yields:
        A `FrameSegmentation` for each frame, the first one's as it was found or given.

    Raises:
        ArgumentError: Options that exclude each other, or no frame.
        ImageError: A frame has another size, or a point lies outside the first.
    """
    if model is None:
        from attnchain.models import load

        model = load()
    asked: dict[str, Any] = {"labels": labels, "prompt": prompt, "sets": sets}
    track = None
    for frame in frames:
        if track is None:
            track = begin_track(frame, model, **asked, size=size)
        else:
            track = track.follow(frame)
        yield track.current
    if track is None:
        raise ArgumentError("there is no frame to follow anything through")


def object_names(count: int) -> tuple[str, ...]:
    """Names of the labels 0 to `count`: the rest, and each object.

    Args:
        count: Number of objects.
    """
    if count <= 1:
        return OBJECT_NAMES
    return (REST, *(f"object {number}" for number in range(1, count + 1)))


def _labels(
    memberships: Tensor, grid: TokenGrid, frame: "Image", border: bool
) -> Int[Tensor, "height width"]:
    """The likeliest name of every pixel; objects end at edges of the picture."""
    maps = enlarge(grid.to_map(memberships.mT), **_size(frame))
    labels = maps.argmax(0)
    reach = (labels.numel() / grid.n_patches) ** 0.5 / 2
    if not border or reach < 1:
        return labels
    objects = [
        border_walk(labels == number, frame, reach=reach)
        for number in range(1, memberships.shape[1])
    ]
    found = torch.stack(objects)
    rest = 1 - found.sum(0, keepdim=True)
    return torch.cat([rest, found]).argmax(0)


def _size(frame: "Image") -> dict[str, int]:
    return {"width": frame.width, "height": frame.height}


def _check_labels(
    frame: "Image", labels: Tensor, names: Sequence[str] | None
) -> tuple[str, ...]:
    """The names of the labels, which fit the frame."""
    shape = (frame.height, frame.width)
    if tuple(labels.shape) != shape or labels.is_floating_point():
        message = (
            f"labels must be whole numbers of the frame's size {shape}, but are "
            f"{labels.dtype} of shape {tuple(labels.shape)}"
        )
        raise ArgumentError(message)
    low, high = int(labels.min()), int(labels.max())
    most = MOST_LABELS if names is None else len(names)
    if low < 0 or high >= most or most > MOST_LABELS:
        message = (
            f"labels must be one of 0 to {min(most, MOST_LABELS) - 1}, each with a "
            f"name, but reach from {low} to {high}, and there are {most} names"
        )
        raise ArgumentError(message)
    return object_names(high) if names is None else tuple(names)
