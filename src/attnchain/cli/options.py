"""The options of the commands, and how their text is read."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from attnchain.vision import Prompt


def unset(*names: str, **settings: Any) -> Any:
    """An option without a default to show: something else happens without it."""
    return typer.Option(*names, show_default=False, **settings)


Picture = Annotated[
    Path, typer.Argument(metavar="IMAGE", help="A picture file.", show_default=False)
]
Model = Annotated[
    str,
    typer.Option(
        help="Packaged model, a hub name or folder of transformers, or timm/NAME."
    ),
]
Layers = Annotated[
    str | None,
    unset(help="Layers counted from 0, e.g. 9-11 or 3,5; --layers=-1 is the last."),
]
Size = Annotated[
    int, typer.Option(help="Longer side the model sees, in pixels.", min=1)
]
Range = Annotated[
    str | None,
    unset(
        "--range",
        metavar="LOW,HIGH",
        help="Values of a grey picture that are black and white.",
    ),
]


def home(folder: Path) -> Path:
    """A folder given as ~/x, in the home folder.

    Raises:
        typer.BadParameter: There is no home folder.
    """
    try:
        return folder.expanduser()
    except RuntimeError as error:
        message = f"{folder} cannot be found: {error}; write the whole path"
        raise typer.BadParameter(message, param_hint="--out") from error


Out = Annotated[
    Path,
    typer.Option(
        callback=home,
        help="Folder to write to; files are named after IMAGE, without its ending. "
        "Older results of the same picture are replaced, and nothing else.",
    ),
]
Void = Annotated[
    int | None,
    unset(help="Value in hand-made masks of pixels that are not scored, such as 128."),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")
]
Bounces = Annotated[
    int | None,
    unset(
        help="Bounces: 1 out and back for --point, 10 for --foreground by default.",
        min=1,
    ),
]
Foreground = Annotated[
    bool, typer.Option("--foreground", help="Segment the main object.")
]
Sets = Annotated[str, typer.Option(metavar="auto|K", help="Number of metastable sets.")]
Direction = Annotated[
    Literal["incoming", "outgoing"],
    typer.Option(help="Where attention arrives, or where it comes from."),
]
Damping = Annotated[
    float, typer.Option(help="Probability of following attention, in (0, 1].")
]
Top = Annotated[int, typer.Option(help="How many patches to list.", min=1)]


def size_option(default: str) -> Any:
    """The option --size of a command that has a default of its own."""
    help_text = f"Longer side the model sees, in pixels; by default {default}."
    return unset(help=help_text, min=1)


_MOST_LAYERS = 1_000


def parse_layers(text: str | None) -> tuple[int, ...] | None:
    """Layer numbers from "9-11", "3,5" or "-2,-1"; None stays None.

    Raises:
        typer.BadParameter: The text has another form.
    """
    if text is None:
        return None
    layers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().rpartition("-")
        try:
            if dash and first:
                span = range(int(first), int(last) + 1)
                layers.extend(span[:_MOST_LAYERS])
            else:
                layers.append(int(part))
        except ValueError as error:
            message = f"layers must look like 9-11 or 3,5, but are {text!r}"
            raise typer.BadParameter(message, param_hint="--layers") from error
    if not layers:
        message = f"{text!r} names no layer; the first number must be the smaller one"
        raise typer.BadParameter(message, param_hint="--layers")
    return tuple(layers)


class Marking(TyperCommand):
    """A command that knows in which order --point and --not-point were given."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        *_, order = self.make_parser(ctx).parse_args([*args])
        signs = {"point": "+", "not_point": "-"}
        ctx.meta[_ORDER] = "".join(signs.get(given.name, "") for given in order)
        return super().parse_args(ctx, args)


def order_given(context: typer.Context) -> str:
    """The signs of the points, as `Prompt` has them; "" in no command of `Marking`."""
    return context.meta.get(_ORDER, "")


_ORDER = "attnchain.order"


def parse_prompt(
    points: Sequence[str] | None,
    not_points: Sequence[str] | None,
    box: str | None,
    order: str = "",
) -> "Prompt | None":
    """Marks from texts such as "120,80" and "10,10,200,150"; None without any.

    Raises:
        typer.BadParameter: A text has another form.
        ArgumentError: The marks do not say where the object is.
    """
    if not (points or not_points) and box is None:
        return None
    from attnchain.vision import Prompt

    like = "a point must look like 120,80"
    edges = "a box must look like 10,10,200,150 (left, top, right, bottom)"
    return Prompt(
        tuple(_numbers(text, 2, "--point", like=like) for text in points or ()),
        tuple(_numbers(text, 2, "--not-point", like=like) for text in not_points or ()),
        _numbers(box, 4, "--box", like=edges) if box is not None else None,
        order,
    )


def parse_range(text: str | None) -> tuple[float, float] | None:
    """Two values from "LOW,HIGH"; None stays None.

    Raises:
        typer.BadParameter: The text has another form.
    """
    like = "a range must look like 0,4095"
    return None if text is None else _numbers(text, 2, "--range", like=like)


def _numbers(text: str, count: int, option: str, *, like: str) -> tuple[Any, ...]:
    """So many numbers with commas between them."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count:
        raise typer.BadParameter(f"{like}, but is {text!r}", param_hint=option)
    return numbers


def parse_sets(text: str) -> int | None:
    """A number of sets, or None for "auto".

    Raises:
        typer.BadParameter: The text is neither.
    """
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError as error:
        message = f"sets must be auto or a number, but is {text!r}"
        raise typer.BadParameter(message, param_hint="--sets") from error
