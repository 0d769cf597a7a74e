"""Files that appear complete or not at all, and words for the terminal."""

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import typer
from rich.console import Console
from torch import Tensor

from attnchain.errors import OutputError
from attnchain.plot import segment_colors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass
class Outputs:
    """Collects the files of one command and moves them into place at the end.

    Use it as a context manager: when the block raises, no file is left behind.
    """

    folder: Path
    stem: str

    def __enter__(self) -> Self:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._draft = Path(tempfile.mkdtemp(prefix=".attnchain-", dir=self.folder))
        except OSError as error:
            message = f"cannot write to {self.folder}: {error.strerror}; choose --out"
            raise OutputError(message) from error
        return self

    def path(self, ending: str) -> Path:
        """Where to write the file NAME-ending for now."""
        return self._draft / f"{self.stem}{ending}"

    def describe(
        self, payload: dict[str, Any], *, ending: str = ".json"
    ) -> dict[str, Any]:
        """Writes NAME-ending and adds the list of all files to the payload."""
        description = self.path(ending)
        names = {path.name for path in self._draft.iterdir()} | {description.name}
        whole = {
            **payload,
            "files": [str(self.folder / name) for name in sorted(names)],
        }
        description.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
        return whole

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                for path in sorted(self._draft.iterdir()):
                    path.replace(self.folder / path.name)
            elif isinstance(error, OSError) and not isinstance(error, OutputError):
                message = f"cannot write to {self.folder}: {error.strerror or error}"
                raise OutputError(message) from error
        except OSError as failure:
            if isinstance(failure, OutputError):
                raise
            message = f"cannot write to {self.folder}: {failure.strerror}"
            raise OutputError(message) from failure
        finally:
            shutil.rmtree(self._draft, ignore_errors=True)


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


def save_labels(labels: Tensor, path: Path) -> None:
    """An index PNG: pixel value = segment number, shown in the figure's colours."""
    from PIL import Image

    index = labels.cpu().numpy().astype(np.uint8)
    image = Image.fromarray(index)
    image.putpalette((segment_colors(256) * 255).round().astype(np.uint8).tobytes())
    image.save(path)


def save_map(values: Tensor, path: Path) -> None:
    """A soft map in [0, 1] as an 8-bit grey PNG."""
    from PIL import Image

    grey = (values.cpu().numpy() * 255).round().astype(np.uint8)
    Image.fromarray(grey).save(path)


def save_figure(drawn: "Figure | Axes", path: Path) -> None:
    """A figure, or the one that holds the axes, as PNG."""
    from matplotlib.figure import Figure

    figure = drawn if isinstance(drawn, Figure) else drawn.get_figure(root=True)
    if figure is not None:
        figure.savefig(path, dpi=110)


@contextmanager
def working(what: str, *, quiet: bool) -> Iterator[None]:
    """Shows that something slow is under way, on the error stream."""
    if quiet:
        yield
        return
    with Console(stderr=True).status(what):
        yield


def report(payload: dict[str, Any], lines: list[str], *, as_json: bool) -> None:
    """Prints the result for a machine or for a person."""
    if as_json:
        typer.echo(json.dumps(payload, indent=2))
    else:
        typer.echo("\n".join(lines))
