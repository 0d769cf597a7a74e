"""`attnchain video`: objects of the first frame followed through the others."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from attnchain.cli import options
from attnchain.cli.segment import Box, NotPoints, Points, Save
from attnchain.cli.session import Clock, load_model, report
from attnchain.errors import ArgumentError, ChainError
from attnchain.files import DESCRIPTIONS, Outputs
from attnchain.signing import UNSIGNED

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from attnchain.models import Frame, LoadedModel
    from attnchain.vision import FrameSegmentation, Prompt, Track

_SIDE = 480
"""Longer side of the animation, in pixels."""
_SHOWN = 100
"""Milliseconds a frame of the animation is shown."""
_USUAL = ("labels", "overlay")

Frames = Annotated[
    Path,
    typer.Argument(
        metavar="FRAMES",
        help="A folder of pictures, in the order of their names, or a video file.",
        show_default=False,
    ),
]
Every = Annotated[int, typer.Option(help="Take every so many frames.", min=1)]
Mask = Annotated[
    Path | None,
    options.unset(help="Label picture of the first frame: one object, or several."),
]
Sets = Annotated[
    str | None,
    options.unset(
        metavar="auto|K", help="Follow the metastable sets of the first frame."
    ),
]


def video(  # noqa: PLR0913, PLR0917  (one parameter for each option)
    context: typer.Context,
    frames: Frames,
    every: Every = 1,
    point: Points = None,
    not_point: NotPoints = None,
    box: Box = None,
    mask: Mask = None,
    sets: Sets = None,
    model: options.Model = "dinov2-small-saliency",
    size: options.Size = 518,
    save: Save = None,
    out: options.Out = Path("out"),
    json_: options.Json = False,
) -> None:
    """Follow objects through a video: its main object, or what is marked in frame 1."""
    from attnchain.models import read_frames
    from attnchain.vision import check_exports

    order = options.order_given(context)
    prompt = options.parse_prompt(point, not_point, box, order)
    start = Start(prompt, mask, sets)
    files = tuple(name.strip() for name in save.split(",")) if save else _USUAL
    check_exports(files)
    clock, given = Clock(), read_frames(frames, every=every)
    settings = {
        "model": model,
        "size": size,
        "every": every,
        "prompt": prompt and asdict(prompt),
        "mask": mask and str(mask),
        "sets": sets,
    }
    job = Job(frames, out, files, size, quiet=json_)
    with job.outputs as outputs:
        loaded = load_model(model, quiet=json_)
        clock.lap("load")
        job.run(given, start, loaded)
        clock.lap("follow")
        job.animate()
        facts = {"video": str(frames), "settings": settings, **job.facts()}
        payload = outputs.describe(
            {**facts, "seconds": clock.laps}, ending="-video.json"
        )
    report(payload, [job.summary(), *payload["files"]], as_json=json_)
    if job.failed:
        raise typer.Exit(1)


@dataclass(frozen=True)
class Start:
    """What is followed from the first frame.

    Attributes:
        prompt: Points and box.
        mask: File of its labels.
        sets: Number of metastable sets, or "auto".
    """

    prompt: "Prompt | None"
    mask: Path | None
    sets: str | None

    def __post_init__(self) -> None:
        named = {
            "a point or box": self.prompt,
            "--mask": self.mask,
            "--sets": self.sets,
        }
        given = [name for name, value in named.items() if value is not None]
        if len(given) > 1:
            message = f"choose one of {' and '.join(given)}: they exclude each other"
            raise ArgumentError(message)
        if self.sets is not None:
            options.parse_sets(self.sets)

    def begin(self, frame: "Image", model: "LoadedModel", size: int) -> "Track":
        """Segments the first frame."""
        from attnchain.vision import begin_track

        labels = None if self.mask is None else _read_mask(self.mask)
        sets = None
        if self.sets is not None:
            sets = options.parse_sets(self.sets) or "auto"
        asked = {"labels": labels, "prompt": self.prompt, "sets": sets}
        return begin_track(frame, model, **asked, size=size)


@dataclass
class Job:
    """A video under way: its files, and what was said of its frames.

    Attributes:
        path: The video.
        out: Folder of the results.
        files: Forms that are saved of every frame.
        size: Longer side the model sees, in pixels.
        quiet: Show no progress.
    """

    path: Path
    out: Path
    files: Sequence[str]
    size: int
    quiet: bool
    failed: dict[str, str] = field(default_factory=dict[str, str])
    _told: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    _shown: "list[Image]" = field(default_factory=list["Image"])

    def __post_init__(self) -> None:
        name = self.path.resolve().stem
        endings = ("-video.json", "-video.gif")
        self.outputs = Outputs(self.out, name, endings=endings, source=self.path)

    def run(
        self, frames: "Iterator[Frame]", start: Start, model: "LoadedModel"
    ) -> None:
        """Follows the objects and writes the files of each frame as it is done."""
        track = None
        for frame in self._counted(frames):
            try:
                picture = frame.read()
                if track is None:
                    track = start.begin(picture, model, self.size)
                else:
                    track = track.follow(picture)
                self._write(frame, track.current)
            except ChainError as error:
                if track is None:
                    raise
                self._fail(frame.name, error)

    def animate(self) -> None:
        """Writes all overlays as one animated GIF."""
        first, *others = self._shown
        first.save(
            self.outputs.path("-video.gif"),
            append_images=others,
            save_all=True,
            duration=_SHOWN,
            loop=0,
            comment=UNSIGNED,
        )

    def facts(self) -> dict[str, Any]:
        """What is told of the whole video."""
        return {"frames": self._told, "failed": self.failed}

    def summary(self) -> str:
        """What a person wants to know, in a few lines."""
        names = self._told[0]["names"]
        said = [f"{len(self._told)} frames followed: {', '.join(names)}"]
        for name in names:
            lost = sum(name in told["lost"] for told in self._told)
            if lost:
                said.append(f"{name} is not seen in {lost} of them")
        if self.failed:
            said.append(f"{len(self.failed)} failed, see above")
        return "; ".join(said)

    def _counted(self, frames: "Iterator[Frame]") -> "Iterator[Frame]":
        """The frames, counted before a person's eyes; a break in the file is told."""
        columns = (SpinnerColumn(), TextColumn("{task.completed} frames"))
        columns = (*columns, TimeElapsedColumn())
        console = Console(stderr=True)
        quiet = self.quiet or not console.is_terminal
        with Progress(*columns, console=console, disable=quiet) as bar:
            task = bar.add_task("frames", total=None)
            try:
                for frame in frames:
                    yield frame
                    bar.advance(task)
            except ChainError as error:
                if not self._told:
                    raise
                self._fail(self.path.name, error)

    def _write(self, frame: "Frame", found: "FrameSegmentation") -> None:
        from attnchain.plot import tinted

        outputs = Outputs(
            self.out / self.outputs.stem,
            frame.name,
            endings=(found.ending, *found.beside),
            source=frame.source,
            siblings=DESCRIPTIONS,
        )
        with outputs:
            found.write(outputs, self.files)
            told = outputs.describe({"image": str(frame.source), **found.facts()})
        before = self._told[-1]["lost"] if self._told else ()
        for name in found.lost:
            if name not in before:
                note = f"warning: {frame.name}: {name} is not seen from here on"
                typer.echo(f"attnchain: {note}", err=True)
        names = ("names", "areas", "lost", "files")
        self._told.append({"name": frame.name, **{name: told[name] for name in names}})
        clear = 0 if "rest" in found.names else None
        small = tinted(found.labels, found.frame, clear=clear)
        small.thumbnail((_SIDE, _SIDE))
        self._shown.append(small.quantize())

    def _fail(self, name: str, error: ChainError) -> None:
        reason = str(error).splitlines()[0]
        self.failed[name] = reason
        typer.echo(f"attnchain: {name}: {reason}", err=True)


def _read_mask(path: Path) -> "Tensor":
    import torch

    from attnchain.evaluate import numbered_objects, read_labels

    labels = torch.from_numpy(read_labels(path, numbered_objects))
    if not labels.any():
        raise ArgumentError(f"the mask {path} holds no object: all of it is 0")
    return labels
