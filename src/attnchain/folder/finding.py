"""Picture files from what a person names: files, folders, patterns."""

import glob
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from attnchain.errors import ImageError, PictureWarning
from attnchain.models import PICTURE_ENDINGS
from attnchain.signing import signed_for


@dataclass(frozen=True, order=True)
class Picture:
    """A picture file, and where it lies among the others.

    Attributes:
        path: The file.
        place: Its path from the folder that holds all of them.
    """

    path: Path
    place: Path


def find_pictures(paths: Iterable[Path], *, recursive: bool = False) -> list[Picture]:
    """The pictures that files, folders and patterns name, each once, in order.

    Of a folder the files count whose ending is a picture's; hidden ones and those
    that attnchain wrote itself are left out.

    Args:
        paths: Files, folders, or patterns such as `photos/*.jpg` and `photos/**/*.png`.
        recursive: Look in the folders of a folder, too.

    Raises:
        ImageError: A name fits nothing, or a folder has no picture or cannot be read.
    """
    named = [match for path in paths for match in _matches(path)]
    roots = [path if path.is_dir() else path.parent for path in named]
    base = Path(os.path.commonpath([root.absolute() for root in roots]))
    found: dict[Path, Picture] = {}
    for path in named:
        for file in _within(path, recursive=recursive) if path.is_dir() else [path]:
            place = file.absolute().relative_to(base)
            found.setdefault(file.resolve(), Picture(file, place))
    return sorted(found.values(), key=lambda picture: picture.place)


def _matches(path: Path) -> Sequence[Path]:
    """What a name stands for: itself, or all that fit a pattern."""
    if os.path.lexists(path):
        return [path]
    found = sorted(glob.glob(str(path), recursive=True))
    if not found:
        what = "fits no file" if glob.has_magic(str(path)) else "is not there"
        raise ImageError(f"{path} {what}: name picture files, folders, or a pattern")
    return [Path(name) for name in found]


def _within(folder: Path, *, recursive: bool) -> list[Path]:
    found = [file for file in _files(folder, recursive=recursive) if not _ours(file)]
    if not found:
        deeper = "" if recursive else "; --recursive looks in its folders, too"
        raise ImageError(f"the folder {folder} has no picture{deeper}")
    return found


def _files(folder: Path, *, recursive: bool) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        message = f"{error.filename or folder} cannot be read ({error.strerror})"
        raise ImageError(message) from error

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if recursive and name[0] != "."]
        for link in filter(os.path.islink, (Path(place, name) for name in folders)):
            message = f"{link} is a link to a folder, not looked into: name it, too"
            warnings.warn(message, PictureWarning, stacklevel=2)
        for name in names:
            if name[0] != "." and Path(name).suffix.lower() in PICTURE_ENDINGS:
                yield Path(place, name)


def _ours(file: Path) -> bool:
    try:
        return signed_for(file) is not None
    except OSError:
        return False
