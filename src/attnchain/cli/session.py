"""What commands on one picture share: read, ask, write, report."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from attnchain.files import AbstractResult, Outputs

if TYPE_CHECKING:
    from PIL.Image import Image

    from attnchain.models import LoadedModel

Question = Callable[["Image", "LoadedModel"], AbstractResult]


class Clock:
    """Seconds between laps, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Ends a lap."""
        now = time.perf_counter()
        self.laps[name] = round(now - self._last, 3)
        self._last = now


def answer(
    question: Question,
    image: Path,
    *,
    command: str,
    model: str,
    out: Path,
    as_json: bool,
    settings: dict[str, Any],
) -> None:
    """Reads the picture, asks the question, writes the result and says it.

    Args:
        question: From the picture and the model to the result.
        image: The picture file; the files written are named after it.
        command: The command, as the time of the question is called.
        model: Name of the model.
        out: Folder to write to.
        as_json: Print the numbers instead of the summary.
        settings: What was asked, written beside the numbers.
    """
    from attnchain.models import read_picture

    clock = Clock()
    picture = read_picture(image)
    with Outputs(out, image.stem) as outputs:
        loaded = load_model(model, quiet=as_json)
        clock.lap("load")
        with working("reading attention and solving its chains", quiet=as_json):
            result = question(picture, loaded)
        clock.lap(command)
        result.write(outputs)
        clock.lap("write")
        facts = {"image": str(image), "settings": settings, **result.facts()}
        payload = outputs.describe(
            {**facts, "seconds": clock.laps}, ending=result.ending
        )
    report(payload, [result.summary(), *payload["files"]], as_json=as_json)


@contextmanager
def working(what: str, *, quiet: bool) -> Iterator[None]:
    """Shows that something slow is under way, on the error stream."""
    if quiet:
        yield
        return
    with Console(stderr=True).status(what):
        yield


def load_model(name: str, *, quiet: bool) -> "LoadedModel":
    """The model of a command, with word that its first loading takes a while."""
    from attnchain.models import load

    with working("loading the model (the first time it is fetched)", quiet=quiet):
        return load(name)


def report(payload: dict[str, Any], lines: list[str], *, as_json: bool) -> None:
    """Prints the result for a machine or for a person."""
    if as_json:
        typer.echo(json.dumps(payload, indent=2))
    else:
        typer.echo("\n".join(lines))
