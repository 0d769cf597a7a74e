"""Files that appear complete or not at all, and results that write their own."""

import errno
import json
import os
import secrets
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from functools import cache
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from attnchain.errors import ChainError, OutputError
from attnchain.signing import (
    KINDS,
    UNSIGNED,
    signature,
    signed,
    signed_for,
    source_mark,
)

DESCRIPTIONS = (".json", "-rank.json", "-heads.json", "-page.json", "-words.json")
"""Endings of the files that say which picture a stem belongs to."""
_DRAFT = ".attnchain-"
"""What the hidden folder is called in which files are written, before they appear."""


def described(file: Path) -> dict[str, Any]:
    """What a JSON file of ours tells; nothing where it is none, or was changed."""
    try:
        told = json.loads(file.read_text("utf-8")) if signed_for(file) else {}
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


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


def check_new(file: Path | None) -> None:
    """Raises OutputError where a file to write is there already, or has no folder."""
    if file is None:
        return
    if os.path.lexists(file):
        raise OutputError(f"{file} is there already; move it away or name another file")
    if not file.absolute().parent.is_dir():
        raise OutputError(f"{file} cannot be written: there is no folder {file.parent}")


def _hold(folder: Path) -> int | None:
    """Locks a folder for as long as this process lives; None where another has it."""
    import fcntl

    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(held)
        return None
    return held


@cache
def _sweep(folder: Path) -> None:
    """Removes what killed processes were writing: their folders are locked no more."""
    for left in folder.glob(f"{_DRAFT}*"):
        with suppress(OSError):
            held = _hold(left)
            if held is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(held)


class Outputs:
    """Collects the files of one result and moves them into place at the end.

    Use it as a context manager: when the block raises, nothing is left behind. Every
    file is signed; only files that carry our signature are ever replaced, and those
    of the same result that are not written again are removed.

    Args:
        folder: Where the files go; it is made where it is missing.
        stem: What their names begin with.
        endings: Of all files the result may write; they are checked beforehand.
        source: The picture they tell about. Where files of another picture have the
            names already, `stem` gets a number.
        siblings: Endings of other results on one picture, which tell whose a stem is.
    """

    def __init__(
        self,
        folder: Path,
        stem: str,
        *,
        endings: Sequence[str] = (),
        source: Path | None = None,
        siblings: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.stem = stem
        self.endings = tuple(endings)
        self.source = "" if source is None else _seen_from(source, folder)
        self._siblings = tuple(siblings)
        self._draft: Path | None = None
        self._held: int | None = None
        self._made: list[Path] = []

    def __enter__(self) -> Self:
        self.check()
        return self

    def check(self, taken: Collection[Path] = ()) -> None:
        """Looks before the work whether the files can be written.

        Args:
            taken: Files that are promised to others already.

        Raises:
            OutputError: They cannot, or would replace files that are not ours.
        """
        try:
            nearest = self.folder
            while not nearest.exists() and nearest != nearest.parent:
                nearest = nearest.parent
            if not nearest.is_dir():
                raise self._cannot_write(f"{nearest} is not a folder")
            if not os.access(nearest, os.W_OK | os.X_OK):
                raise self._cannot_write("permission denied")
            self._check_length(nearest)
        except OSError as error:
            raise self._cannot_write(error) from error
        self.stem = self._own_stem(taken)
        self._check_targets(self.targets)

    @property
    def targets(self) -> list[Path]:
        """All files the result may write."""
        return self._named(self.stem)

    def withdraw(self) -> None:
        """Removes an earlier result on the same source: it no longer holds."""
        for target in self.targets:
            if self.source and _mark(target) == source_mark(self.source):
                target.unlink(missing_ok=True)

    def _named(self, stem: str) -> list[Path]:
        return [self.folder / f"{stem}{ending}" for ending in self.endings]

    def path(self, ending: str) -> Path:
        """Where to write the file STEM-ending for now."""
        if self._draft is None:
            self._draft = self._make_draft()
        return self._draft / f"{self.stem}{ending}"

    def describe(
        self, payload: dict[str, Any], *, ending: str = ".json"
    ) -> dict[str, Any]:
        """Writes STEM-ending last, see `write_json`, with the names of all files."""
        description = self.path(ending)
        names = {path.name for path in description.parent.iterdir()}
        files = [str(self.folder / name) for name in sorted({*names, description.name})]
        return self.write_json(ending, {**payload, "files": files})

    def write_json(self, ending: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Writes STEM-ending and adds the signature to the payload."""
        whole = {"attnchain": UNSIGNED, **payload}
        whole["attnchain"] = signature(_as_json(whole), self.source)
        self.path(ending).write_text(_as_json(whole), encoding="utf-8")
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
            if self._held is not None:
                os.close(self._held)
            if not done:
                self._unmake()
        if isinstance(error, OSError) and self._is_mine(error):
            raise self._cannot_write(error) from error

    def _is_mine(self, error: OSError) -> bool:
        """Whether writing here failed, and not something else, somewhere else."""
        if isinstance(error, ChainError) or self._draft is None:
            return False
        named = error.filename
        return named is None or self._draft in Path(os.fsdecode(named)).parents

    def _check_length(self, nearest: Path) -> None:
        """A name that is too long is said before the work."""
        most = os.pathconf(nearest, "PC_NAME_MAX")
        names = [f"{self.stem}{ending}" for ending in self.endings]
        longest = max(names, key=_bytes, default="")
        for name in (*self.folder.parts, longest):
            if _bytes(name) > most:
                message = (
                    f"a file name may have {most} bytes in {nearest}, but {name!r} has "
                    f"{_bytes(name)}; give the picture or the folder of --out a "
                    "shorter name"
                )
                raise OutputError(message)

    def _own_stem(self, taken: Collection[Path]) -> str:
        """The stem, numbered where it belongs to another picture."""
        endings = {*self.endings, *self._siblings}
        for number in count(1):
            stem = self.stem if number == 1 else f"{self.stem}-{number}"
            if any(file in taken for file in self._named(stem)):
                continue
            marks = {_mark(self.folder / f"{stem}{ending}") for ending in endings}
            if not self.source or marks <= {None, source_mark(self.source)}:
                return stem
        raise AssertionError

    def _check_targets(self, targets: Iterable[Path]) -> None:
        for target in targets:
            if os.path.lexists(target) and _mark(target) is None:
                what = "is a folder" if target.is_dir() else "is not a file of ours"
                message = (
                    f"{target} {what}, or was changed since it was written, and is not "
                    "replaced: move it away, or choose another folder, on the command "
                    "line with --out"
                )
                raise OutputError(message)

    def _make_draft(self) -> Path:
        try:
            missing = [self.folder, *self.folder.parents]
            self._made = [folder for folder in missing if not folder.exists()]
            self.folder.mkdir(parents=True, exist_ok=True)
            _sweep(self.folder.absolute())
            # It gets its name when it is locked: nobody takes it for one left behind.
            new = Path(tempfile.mkdtemp(prefix=".new-attnchain-", dir=self.folder))
            self._held = _hold(new)
            return new.rename(new.with_name(new.name.replace(".new-", ".", 1)))
        except OSError as error:
            raise self._cannot_write(error) from error

    def _publish(self, draft: Path) -> None:
        """Signs the files and moves them to their places, the description last."""
        drafts = sorted(
            draft.iterdir(), key=lambda path: (path.suffix == ".json", path)
        )
        for path in drafts:
            if path.suffix in KINDS:
                path.write_bytes(signed(path.read_bytes(), self.source))
        self._check_targets(self.folder / path.name for path in drafts)
        for path in drafts:
            path.replace(self.folder / path.name)
        written = {path.name for path in drafts}
        for target in self.targets:
            if target.name not in written and _mark(target) is not None:
                target.unlink(missing_ok=True)

    def _unmake(self) -> None:
        """Removes the folders made here, which are empty again."""
        for folder in self._made:
            with suppress(OSError):
                folder.rmdir()

    def _cannot_write(self, reason: OSError | str) -> OutputError:
        if isinstance(reason, OutputError):
            return reason
        if isinstance(reason, OSError):
            full = reason.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
            remedy = "; make room there" if full else ""
            reason = f"{reason.strerror or reason}{remedy}"
        message = f"cannot write to {self.folder}: {reason}; or choose another folder"
        return OutputError(f"{message}, on the command line with --out")


def _as_json(payload: dict[str, Any]) -> str:
    return json.dumps(payload, indent=2) + "\n"


def _bytes(name: str) -> int:
    return len(os.fsencode(name))


def _seen_from(source: Path, folder: Path) -> str:
    """The way from the folder to the picture: it stays when both move together."""
    return os.path.relpath(os.path.realpath(source), os.path.realpath(folder))


def _mark(file: Path) -> str | None:
    """Whom a file was signed for; None where it is missing, or not ours to replace."""
    try:
        return signed_for(file)
    except OSError:
        return None


class AbstractResult(ABC):
    """A result that says itself in words and in numbers, and writes its own files."""

    ending: ClassVar[str] = ".json"
    """Of the file of its numbers."""
    beside: ClassVar[tuple[str, ...]] = ()
    """Of the files it may write beside that one."""

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
            OutputError: They cannot be written, or a file of that name is there that
                was not written by attnchain or was changed since.
        """
        return self._save(Path(folder), stem, self.write)

    def _save(
        self, folder: Path, stem: str, write: Callable[[Outputs], None]
    ) -> tuple[Path, ...]:
        endings = (self.ending, *self.beside)
        with Outputs(folder, stem, endings=endings) as outputs:
            write(outputs)
            described = outputs.describe(self.facts(), ending=self.ending)
        return tuple(Path(name) for name in described["files"])
