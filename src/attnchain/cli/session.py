"""What commands on one picture share: read, ask, write, report."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from attnchain.cli.options import parse_range
from attnchain.errors import DeliveryError
from attnchain.files import DESCRIPTIONS, AbstractResult, Outputs

if TYPE_CHECKING:
    from PIL.Image import Image

Question = Callable[[Any, Any], AbstractResult]
"""From a picture (None where it is yet to be drawn) and a model to a result."""


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


@dataclass(frozen=True)
class Task:
    """What every command on one picture is given.

    A picture that is yet to be drawn is another kind of task: it overrides what is
    said of the file.

    Attributes:
        image: The picture file; the files written are named after it.
        value_range: The values of a grey picture that are black and white, as text.
        model: Name of the model.
        out: Folder to write to.
        as_json: Print the numbers instead of the summary.
    """

    image: Path
    value_range: str | None
    model: str
    out: Path
    as_json: bool

    def read(self) -> "tuple[Image | None, bytes]":
        """The picture, and what is hashed as the input."""
        from attnchain.models import read_picture

        picture = read_picture(self.image, value_range=parse_range(self.value_range))
        return picture, self.image.read_bytes()

    @property
    def source(self) -> dict[str, Any]:
        """What the numbers are of, as their file says it."""
        return {"image": str(self.image)}

    def outputs(self, kind: type[AbstractResult]) -> Outputs:
        """Where a result of some kind goes; says where its name is another."""
        outputs = Outputs(
            self.out,
            self.image.stem,
            endings=(kind.ending, *kind.beside),
            source=self.image,
            siblings=DESCRIPTIONS,
        )
        outputs.check()
        if outputs.stem != self.image.stem:
            taken = f"files named {self.image.stem} in {self.out} are another picture's"
            typer.echo(f"attnchain: {taken}; these are {outputs.stem}", err=True)
        return outputs


def _write(result: AbstractResult, outputs: Outputs) -> None:
    result.write(outputs)


def answer(
    question: Question,
    task: Task,
    *,
    kind: type[AbstractResult],
    command: str,
    settings: dict[str, Any],
    write: Callable[[Any, Outputs], None] = _write,
    reads: type[Any] | None = None,
) -> None:
    """Reads the picture, asks the question, writes the result and says it.

    Args:
        question: From the picture and the model to the result.
        task: The picture, the model, and where the result goes.
        kind: The result's class, or that of all it may be.
        command: The command, as the time of the question is called.
        settings: What was asked, written beside the numbers.
        write: Writes the files of the result.
        reads: See `load_model`.
    """
    from attnchain.models import origin

    clock, quiet = Clock(), task.as_json
    picture, given = task.read()
    with task.outputs(kind) as outputs:
        loaded = load_model(task.model, quiet=quiet, reads=reads)
        clock.lap("load")
        with working("reading attention and solving its chains", quiet=quiet):
            result = question(picture, loaded)
        clock.lap(command)
        write(result, outputs)
        clock.lap("write")
        facts = {
            **task.source,
            "settings": settings,
            **result.facts(),
            **origin(loaded.model, given),
        }
        payload = outputs.describe(
            {**facts, "seconds": clock.laps}, ending=result.ending
        )
    report(payload, [result.summary(), *payload["files"]], as_json=quiet)


@contextmanager
def working(what: str, *, quiet: bool) -> Iterator[None]:
    """Shows that something slow is under way, on the error stream."""
    if quiet:
        yield
        return
    with Console(stderr=True).status(what):
        yield


def load_model(name: str, *, quiet: bool, reads: type[Any] | None = None) -> Any:
    """The model of a command, with word that its first loading takes a while.

    Args:
        name: See `load`.
        quiet: Say nothing.
        reads: The kind of model that is needed; by default one for pictures.
    """
    from attnchain.models import LoadedModel, load, of_kind

    with working("loading the model (the first time it is fetched)", quiet=quiet):
        return of_kind(load(name), reads or LoadedModel)


def report(payload: dict[str, Any], lines: list[str], *, as_json: bool) -> None:
    """Prints the result for a machine or for a person.

    Raises:
        DeliveryError: It could not be printed.
    """
    text = json.dumps(payload, indent=2) if as_json else "\n".join(lines)
    try:
        _print(text)
    except OSError as error:
        message = (
            f"the result could not be printed ({error.strerror or error}); "
            f"its files are complete: {', '.join(payload['files'])}"
        )
        raise DeliveryError(message) from error


def _print(text: str) -> None:
    if sys.stdout is None:
        raise DeliveryError("standard output is closed")
    typer.echo(text)
    sys.stdout.flush()
