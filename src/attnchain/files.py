"""Files that appear complete or not at all, and results that write their own."""

import errno
import json
import os
import secrets
import shutil
import tempfile
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from attnchain.errors import ChainError, OutputError


def write_whole(file: Path, content: bytes) -> None:
    """Writes one file; it appears whole or not at all.

    Raises:
        OutputError: It cannot be written.
    """
    draft = file.with_name(f".{file.name}-{secrets.token_hex(4)}")
    try:
        with draft.open("xb") as stream:
            stream.write(content)
        draft.replace(file)
    except OSError as error:
        message = f"{file} cannot be written ({error.strerror or error})"
        raise OutputError(message) from error
    finally:
        draft.unlink(missing_ok=True)


class Outputs:
    """Collects the files of one result and moves them into place at the end.

    Use it as a context manager: when the block raises, nothing is left behind.

    Args:
        folder: Where the files go; it is made where it is missing.
        stem: What their names begin with.
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
            raise self._cannot_write(f"{nearest} is not a folder")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise self._cannot_write("permission denied")
        return self

    def path(self, ending: str) -> Path:
        """Where to write the file STEM-ending for now."""
        if self._draft is None:
            self._draft = self._make_draft()
        return self._draft / f"{self.stem}{ending}"

    def describe(
        self, payload: dict[str, Any], *, ending: str = ".json"
    ) -> dict[str, Any]:
        """Writes STEM-ending and adds the list of all files to the payload."""
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

    def _cannot_write(self, reason: OSError | str) -> OutputError:
        if isinstance(reason, OSError):
            reason = f"{reason.strerror or reason}; make room there"
        message = f"cannot write to {self.folder}: {reason}; or choose another folder"
        return OutputError(f"{message}, on the command line with --out")


class AbstractResult(ABC):
    """A result that says itself in words and in numbers, and writes its own files."""

    ending: ClassVar[str] = ".json"
    """Of the file of its numbers."""

    @abstractmethod
    def summary(self) -> str:
        """What a person wants to know, in a few lines."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Its numbers by name, as JSON takes them."""

    @abstractmethod
    def write(self, outputs: Outputs) -> None:
        """Writes its pictures among the outputs."""

    def save(self, folder: str | os.PathLike[str], *, stem: str) -> tuple[Path, ...]:
        """Writes pictures and a JSON file of the numbers, all of them or none.

        Args:
            folder: Where to; it is made where it is missing.
            stem: What the names of the files begin with.

        Returns:
            The files.

        Raises:
            OutputError: They cannot be written.
        """
        with Outputs(Path(folder), stem) as outputs:
            self.write(outputs)
            described = outputs.describe(self.facts(), ending=self.ending)
        return tuple(Path(name) for name in described["files"])
