"""What a data set is to the evaluation: names, pictures and hand-made labels."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from attnchain.errors import DataSetError
from attnchain.evaluate.labels import VOID, Convention, read_labels
from attnchain.models import PICTURE_ENDINGS, read_picture

if TYPE_CHECKING:
    from PIL.Image import Image

Kind = Literal["object", "classes", "regions"]
Truth = Int[Tensor, "people height width"]


@dataclass(frozen=True)
class Item:
    """One picture with its labels, read when asked for.

    Attributes:
        picture: Reads the picture, as RGB.
        truth: Reads the labels.
        content: Reads the bytes of both, which results are tied to.
    """

    picture: Callable[[], "Image"]
    truth: Callable[[], Truth]
    content: Callable[[], Iterable[bytes]]


@dataclass(frozen=True)
class Found:
    """What a place holds: pictures by name, and sentences on what is left out."""

    items: dict[str, Item]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """One entry of the table of data sets.

    Attributes:
        title: The data set.
        kind: What its labels are.
        about: Where its files lie and what the labels' values mean, for messages.
        find: From the place given by the user to what it holds.
    """

    title: str
    kind: Kind
    about: str
    find: Callable[[Path], Found]


class DataSet:
    """Pictures with hand-made labels under one folder or in one file.

    Labels are `(people, height, width)`: -1 is not scored; for kind "object" 1 is the
    object and 0 the rest, for "classes" the number of a class, for "regions" the
    number of a region in each person's drawing.

    Args:
        layout: How the data lie.
        root: Where they lie; given by the user, never downloaded.

    Raises:
        DataSetError: The folder or file is missing, empty, or a picture has no labels.
    """

    def __init__(self, layout: Layout, root: str | Path) -> None:
        self.title, self.kind, self.root = layout.title, layout.kind, Path(root)
        if not self.root.exists():
            raise DataSetError(
                f"{layout.title}: {self.root} does not exist; give the place that "
                f"holds {layout.about}"
            )
        found = layout.find(self.root)
        self._items, self.notes = found.items, found.notes
        self.names = tuple(sorted(self._items))
        if not self.names:
            left = "; ".join((f"expected {layout.about}", *self.notes))
            raise DataSetError(f"{layout.title}: {self.root} holds no picture; {left}")

    def picture(self, name: str) -> "Image":
        """The picture of that name, as RGB.

        Raises:
            ImageError: The picture is damaged.
        """
        return self._items[name].picture()

    def truth(self, name: str) -> Truth:
        """The labels of that name.

        Raises:
            ImageError: The labels are damaged.
            DataSetError: They do not say what is labelled, or nothing is.
        """
        truth = self._items[name].truth()
        if bool((truth == VOID).all()):
            raise DataSetError(f"the labels of {name!r} are void in every pixel")
        if self.kind == "object" and not bool((truth == 1).any()):
            raise DataSetError(f"the labels of {name!r} show no object to be found")
        return truth

    def digest(self, name: str) -> str | None:
        """A digest of the picture and its labels; None where they cannot be read."""
        try:
            parts = [sha256(part).digest() for part in self._items[name].content()]
        except (OSError, ValueError, LookupError):
            return None
        return sha256(b"".join(parts)).hexdigest()[:32]


def paired(
    root: Path,
    read: Callable[[Path], Truth],
    *,
    pictures: str = "images",
    labels: str = "masks",
    endings: tuple[str, ...] = (".png",),
    listed: Callable[[Path, Iterable[str]], list[str]] | None = None,
) -> Found:
    """Pictures in one folder, labels of the same path without ending in another.

    Args:
        root: The folder of both.
        read: Reads a label file.
        pictures: The folder of the pictures.
        labels: The folder of the labels.
        endings: Of the label files.
        listed: Chooses among the names; all by default.

    Raises:
        DataSetError: A folder or a label file is missing, or a name stands for two.
    """
    found, others = files_in(root / pictures, PICTURE_ENDINGS)
    drawn, _ = files_in(root / labels, endings)
    names = listed(root, found) if listed else sorted(found)
    unpaired = sorted(set(names) - set(drawn))
    if unpaired:
        raise DataSetError(
            f"{root / pictures} holds {len(unpaired)} pictures without labels, the "
            f"first one {unpaired[0]!r}; expected {unpaired[0]}{endings[0]} in "
            f"{root / labels}"
        )
    alone = [] if listed else sorted(set(drawn) - set(found))
    notes = [
        left_out(others, f"in {root / pictures} with no ending of a picture"),
        left_out(alone, f"in {root / labels} without a picture"),
    ]
    items = {name: _pair(found[name], drawn[name], read) for name in names}
    return Found(items, tuple(note for note in notes if note))


def _pair(picture: Path, labels: Path, read: Callable[[Path], Truth]) -> Item:
    return Item(
        picture=lambda: read_picture(picture),
        truth=lambda: read(labels),
        content=lambda: (picture.read_bytes(), labels.read_bytes()),
    )


def left_out(names: list[str], where: str) -> str:
    """A sentence on files that are left out; empty where there are none."""
    if not names:
        return ""
    return f"{len(names)} files {where} are left out, the first one {names[0]!r}"


def label_pictures(convention: Convention) -> Callable[[Path], Truth]:
    """A reader of label pictures that follow a convention."""

    def read(path: Path) -> Truth:
        return torch.from_numpy(read_labels(path, convention))[None]

    return read


def files_in(
    folder: Path, endings: tuple[str, ...]
) -> tuple[dict[str, Path], list[str]]:
    """Files below a folder: those with an ending, by path without it, and the others.

    Hidden files and folders are left alone.

    Raises:
        DataSetError: There is no such folder, or two files differ in the ending only.
    """
    if not folder.is_dir():
        raise DataSetError(f"expected a folder, but there is none: {folder}")
    found: dict[str, Path] = {}
    others: list[str] = []
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder)
        hidden = any(part.startswith((".", "__MACOSX")) for part in place.parts)
        if hidden or path.is_dir():
            continue
        if path.suffix.lower() not in endings:
            others.append(place.as_posix())
            continue
        name = place.with_suffix("").as_posix()
        if name in found:
            raise DataSetError(
                f"{found[name]} and {path} are two files for one name; keep one of them"
            )
        found[name] = path
    return found, others
