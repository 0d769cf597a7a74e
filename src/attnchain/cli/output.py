"""Files that appear complete or not at all, and words for the terminal."""

import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import typer
from rich.console import Console
from torch import Tensor

from attnchain.errors import ChainError, OutputError
from attnchain.plot import segment_colors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from attnchain.models import LoadedModel


class Outputs:
    """Collects the files of one command and moves them into place at the end.

    Use it as a context manager: when the block raises, nothing is left behind.
    """

    def __init__(self, folder: Path, stem: str) -> None:
        self.folder = folder
        self.stem = stem
        self._draft: Path | None = None
        self._made: list[Path] = []

    def __enter__(self) -> Self:
        try:
            nearest = self.folder
            while not nearest.exists() and nearest != nearest.parent:
                nearest = nearest.parent
        except OSError as error:
            raise self._cannot_write(error) from error
        if not nearest.is_dir():
            message = f"cannot write to {self.folder}: {nearest} is not a folder"
            raise OutputError(f"{message}; choose another one with --out")
        if not os.access(nearest, os.W_OK | os.X_OK):
            message = f"cannot write to {self.folder}: permission denied"
            raise OutputError(f"{message}; choose another folder with --out")
        return self

    def path(self, ending: str) -> Path:
        """Where to write the file NAME-ending for now."""
        if self._draft is None:
            self._draft = self._make_draft()
        return self._draft / f"{self.stem}{ending}"

    def describe(
        self, payload: dict[str, Any], *, ending: str = ".json"
    ) -> dict[str, Any]:
        """Writes NAME-ending and adds the list of all files to the payload."""
        description = self.path(ending)
        names = {path.name for path in description.parent.iterdir()}
        files = [str(self.folder / name) for name in sorted({*names, description.name})]
        whole = {**payload, "files": files}
        description.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
        return whole

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        done = False
        try:
            if error is None and self._draft is not None:
                self._publish(self._draft)
                done = True
        except OSError as failure:
            raise self._cannot_write(failure) from failure
        finally:
            if self._draft is not None:
                shutil.rmtree(self._draft, ignore_errors=True)
            if not done:
                self._unmake()
        if isinstance(error, OSError) and not isinstance(error, ChainError):
            raise self._cannot_write(error) from error

    def _make_draft(self) -> Path:
        try:
            missing = [self.folder, *self.folder.parents]
            self._made = [folder for folder in missing if not folder.exists()]
            self.folder.mkdir(parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(prefix=".attnchain-", dir=self.folder))
        except OSError as error:
            raise self._cannot_write(error) from error

    def _publish(self, draft: Path) -> None:
        drafts = sorted(draft.iterdir())
        for path in drafts:
            target = self.folder / path.name
            if target.is_dir():
                raise IsADirectoryError(errno.EISDIR, f"{target} is a folder")
        for path in drafts:
            path.replace(self.folder / path.name)

    def _unmake(self) -> None:
        """Removes the folders made here, which are empty again."""
        for folder in self._made:
            with suppress(OSError):
                folder.rmdir()

    def _cannot_write(self, error: OSError) -> OutputError:
        reason = error.strerror or error
        message = f"cannot write to {self.folder}: {reason}; make room there, or choose"
        return OutputError(f"{message} another folder with --out")


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
