"""`attnchain text`: a text's attention, as numbers and as a page."""

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from attnchain.cli import options
from attnchain.cli.session import report, working
from attnchain.errors import ArgumentError
from attnchain.files import check_new, write_whole

if TYPE_CHECKING:
    from torch import Tensor

    from attnchain.language import TextReading
    from attnchain.models import LoadedText

_NEW = "this file, which must not be there yet"


def text(  # noqa: PLR0913, PLR0917  (one parameter for each option)
    words: Annotated[
        str | None,
        typer.Argument(metavar="TEXT", help="The text itself.", show_default=False),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="Read the text from this file.", show_default=False),
    ] = None,
    model: Annotated[
        str, typer.Option(help="Packaged model, or a hub name or folder.")
    ] = "all-minilm-l6-v2",
    layers: options.Layers = None,
    sink: Annotated[
        Literal["drop", "keep"],
        typer.Option(help="What is done with tokens that draw attention anyway."),
    ] = "drop",
    word: Annotated[
        str | None,
        typer.Option(help="Show where attention from it goes.", show_default=False),
    ] = None,
    bounces: Annotated[int, typer.Option(help="How many bounces.", min=1)] = 3,
    json_: Annotated[
        Path | None, typer.Option("--json", help=f"Write all numbers to {_NEW}.")
    ] = None,
    csv_: Annotated[
        Path | None, typer.Option("--csv", help=f"Write one line a token to {_NEW}.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help=f"Write the text as a web page to {_NEW}.")
    ] = None,
) -> None:
    """Read a text: ranks, groups and sinks of its tokens, and every head."""
    from attnchain.language import read_text
    from attnchain.page import TextPage

    given = _given(words, file)
    for place in (json_, csv_, page):
        check_new(place)
    asked = {"layers": options.parse_layers(layers), "sink": sink}
    with working("loading the model (the first time it is fetched)", quiet=False):
        loaded = _load(model)
    with working("reading attention and solving its chains", quiet=False):
        reading = read_text(loaded, given, **asked)
        lines, walk = [reading.summary()], None
        if word is not None:
            walk = reading.bounces(word, bounces)
            lines += _walked(reading, word, walk)
        files = {}
        if json_ is not None:
            settings = {**asked, "word": word, "bounces": bounces}
            files[json_] = _as_json(reading, loaded, settings, walk)
        if csv_ is not None:
            files[csv_] = _as_csv(reading)
        if page is not None:
            files[page] = TextPage(reading, given[:60]).html
    for place, content in files.items():
        write_whole(place, content.encode())
    names = [str(place) for place in files]
    report({"files": names}, [*lines, *names], as_json=False)


def _given(words: str | None, file: Path | None) -> str:
    if (words is None) == (file is None):
        raise ArgumentError("give either a text or --file FILE, and not both")
    if file is None:
        return words or ""
    try:
        return file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ArgumentError(f"{file} is no text in UTF-8 ({error.reason})") from error
    except OSError as error:
        raise ArgumentError(f"{file} cannot be read ({error.strerror})") from error


def _load(name: str) -> "LoadedText":
    from attnchain.models import LoadedText, load, of_kind

    return of_kind(load(name), LoadedText)


def _walked(reading: "TextReading", word: str, steps: "Tensor") -> list[str]:
    """Where attention from a word is after each bounce, in words."""
    lines = [f"from {word!r}:"]
    for number, step in enumerate(steps, 1):
        best = step.topk(min(5, len(reading.tokens))).indices.tolist()
        shown = ", ".join(f"{reading.tokens[i]} {float(step[i]):.2f}" for i in best)
        lines.append(f"  after {number}: {shown}")
    return lines


def _as_json(
    reading: "TextReading",
    loaded: "LoadedText",
    settings: dict[str, Any],
    walk: "Tensor | None",
) -> str:
    from attnchain.models import origin

    steps = None if walk is None else walk.tolist()
    whole = {"settings": settings, **reading.facts(), "bounces": steps}
    whole |= origin(loaded.model, reading.text.encode())
    return json.dumps(whole, indent=2) + "\n"


def _as_csv(reading: "TextReading") -> str:
    stream = io.StringIO()
    rows = reading.rows()
    table = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return stream.getvalue()
