"""`attnchain segment`: pictures in, their segments out."""

from dataclasses import asdict, dataclass
from functools import partial
from glob import has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from attnchain.cli import options
from attnchain.cli.session import Task, answer

if TYPE_CHECKING:
    from attnchain.vision import Prompt

Pictures = Annotated[
    list[Path],
    typer.Argument(
        metavar="PATH...",
        help="Picture files, folders of pictures, or patterns such as 'a/*.jpg'.",
        show_default=False,
    ),
]
Recursive = Annotated[
    bool, typer.Option("--recursive", help="Look in the folders of a folder, too.")
]
_point = partial(options.unset, metavar="X,Y")

Points = Annotated[
    list[str] | None,
    _point(
        "--point",
        help="Segment the object under this point (pixels of the picture); repeatable.",
    ),
]
NotPoints = Annotated[
    list[str] | None,
    _point("--not-point", help="A point that is not on the object; repeatable."),
]
Box = Annotated[
    str | None,
    options.unset(metavar="X0,Y0,X1,Y1", help="A box around the object."),
]
Marks = Annotated[
    Path | None,
    options.unset(
        help="CSV or JSON with points and a box for each picture, a line a picture."
    ),
]
Save = Annotated[
    str | None,
    options.unset(
        metavar="A,B",
        help="Files to write: labels, figure, map, cutout, overlay, polygons, coco.",
    ),
]
Workers = Annotated[int, typer.Option(help="Pictures read at once.", min=1)]
Engine = Annotated[
    Literal["local", "ray"],
    typer.Option(help="Processes on this machine, or a Ray cluster."),
]
Address = Annotated[
    str | None,
    options.unset(help="Of a running Ray cluster; by default one is started here."),
]


def segment(  # noqa: PLR0913, PLR0917  (one parameter for each option)
    context: typer.Context,
    images: Pictures,
    recursive: Recursive = False,
    range_: options.Range = None,
    model: options.Model = "dinov2-small-saliency",
    layers: options.Layers = None,
    bounces: options.Bounces = None,
    point: Points = None,
    not_point: NotPoints = None,
    box: Box = None,
    marks: Marks = None,
    foreground: options.Foreground = False,
    sets: options.Sets = "auto",
    size: Annotated[
        int | None, options.size_option("518, or 700 for --foreground")
    ] = None,
    save: Save = None,
    workers: Workers = 1,
    engine: Engine = "local",
    address: Address = None,
    out: options.Out = Path("out"),
    json_: options.Json = False,
) -> None:
    """Cut pictures into the metastable sets of their attention, or one object."""
    asked = {
        "foreground": foreground,
        "sets": options.parse_sets(sets),
        "layers": options.parse_layers(layers),
        "bounces": bounces,
        "size": size,
    }
    order = options.order_given(context)
    prompt = options.parse_prompt(point, not_point, box, order)
    question = Question(asked, prompt, _split(save))
    one = len(images) == 1 and not images[0].is_dir() and not has_magic(str(images[0]))
    one = one and marks is None and workers == 1 and engine == "local"
    question.check(marks=marks is not None, one=one)
    if one:
        _one(Task(images[0], range_, model, out, json_), question)
        return
    from attnchain.cli.many import Where, answer_many
    from attnchain.folder import Job

    job = Job(model, out, asked, question.files, options.parse_range(range_))
    where = Where(images, recursive, marks, workers, engine, address)
    answer_many(job, where, question.prompt, as_json=json_)


@dataclass(frozen=True)
class Question:
    """What is asked of every picture.

    Attributes:
        asked: Arguments of `attnchain.vision.segment`.
        prompt: Points and box of the command line.
        files: Forms that are saved; None for the usual ones.
    """

    asked: dict[str, Any]
    prompt: "Prompt | None"
    files: tuple[str, ...] | None

    def check(self, *, marks: bool, one: bool) -> None:
        """What is wrong is said before anything is read."""
        from attnchain.vision import check_exports, check_options

        check_exports(self.files or ())
        self._check_files(marks=marks, one=one)
        if marks and self.prompt is not None:
            message = "marks say the points and boxes of each picture; give none beside"
            raise typer.BadParameter(message, param_hint="--marks")
        names = ("sets", "bounces", "foreground")
        asked = {name: self.asked[name] for name in names}
        check_options(**asked, **self.mark)
        if marks and (asked["foreground"] or asked["sets"] is not None):
            message = "marks ask for an object: leave out --foreground and --sets"
            raise typer.BadParameter(message, param_hint="--marks")

    def _check_files(self, *, marks: bool, one: bool) -> None:
        """Files that go with an object are refused where none is asked for."""
        main, prompt = self.asked["foreground"], self.prompt
        point = one and prompt is not None and prompt.is_point
        if "map" in (self.files or ()) and not (main or point):
            message = "'map' goes with --foreground, or one --point in one picture"
            raise typer.BadParameter(message, param_hint="--save")
        if "cutout" in (self.files or ()) and not (main or prompt or marks):
            message = "'cutout' goes with an object: --foreground, points or a box"
            raise typer.BadParameter(message, param_hint="--save")

    @property
    def mark(self) -> dict[str, Any]:
        """The prompt as an argument; a single point is one by itself."""
        if self.prompt is not None and self.prompt.is_point:
            return {"point": self.prompt.points[0], "prompt": None}
        return {"point": None, "prompt": self.prompt}


def _one(task: Task, question: Question) -> None:
    from attnchain import vision

    mark = question.mark
    settings = {**question.asked, **mark}
    if mark["prompt"] is not None:
        settings["prompt"] = asdict(mark["prompt"])
    answer(
        lambda picture, model: vision.segment(
            picture, model=model, **question.asked, **mark
        ),
        task,
        kind=vision.Segmentation,
        command="segment",
        settings=settings,
        write=lambda result, outputs: result.write(outputs, question.files),
    )


def _split(save: str | None) -> tuple[str, ...] | None:
    return tuple(name.strip() for name in save.split(",")) if save else None
