"""What a data set is to the evaluation: names, pictures and hand-made labels."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from attnchain.errors import DataSetError, ImageError
from attnchain.models import read_picture

if TYPE_CHECKING:
    from PIL.Image import Image

Kind = Literal["object", "classes", "regions"]
Value = TypeVar("Value")
PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp")
VOID = -1
"""Label of pixels that are not scored."""


class DataSet(ABC):
    """Pictures with hand-made labels under one folder or in one file.

    Labels are `(people, height, width)`: -1 is not scored; for kind "object" 1 is the
    object and 0 the rest, for "classes" the number of a class, for "regions" the
    number of a region in each person's drawing.

    Args:
        root: Where the data lie; given by the user, never downloaded.

    Raises:
        DataSetError: The folder or file is missing, empty, or a picture has no labels.
    """

    about: ClassVar[str]
    kind: ClassVar[Kind]

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.exists():
            raise DataSetError(
                f"{type(self).__name__}: {self.root} does not exist; give the place "
                f"that holds {self.about}"
            )
        self.names = tuple(sorted(self._names()))
        if not self.names:
            raise DataSetError(
                f"{type(self).__name__}: {self.root} holds no picture; expected "
                f"{self.about}"
            )

    @abstractmethod
    def _names(self) -> Iterator[str]:
        """Names of the pictures, in any order."""

    @abstractmethod
    def picture(self, name: str) -> "Image":
        """The picture of that name, as RGB.

        Raises:
            ImageError: The picture is damaged.
        """

    @abstractmethod
    def truth(self, name: str) -> Int[Tensor, "people height width"]:
        """The labels of that name.

        Raises:
            ImageError: The labels are damaged.
        """


class PairedFolders(DataSet):
    """Pictures in one folder, labels of the same file stem in another."""

    pictures: ClassVar[str] = "images"
    labels: ClassVar[str] = "masks"
    label_ending: ClassVar[str] = ".png"

    def _names(self) -> Iterator[str]:
        pictures = files_in(self.root / self.pictures, PICTURE_ENDINGS)
        labels = files_in(self.root / self.labels, (self.label_ending,))
        self._pictures = {stem: pictures[stem] for stem in self._listed(pictures)}
        self._labels = labels
        unpaired = sorted(set(self._pictures) - set(labels))
        if unpaired:
            raise DataSetError(
                f"{type(self).__name__}: {self.root / self.pictures} holds "
                f"{len(unpaired)} pictures without labels, the first one "
                f"{unpaired[0]!r}; expected {unpaired[0]}{self.label_ending} in "
                f"{self.root / self.labels}"
            )
        yield from self._pictures

    def _listed(self, pictures: dict[str, Path]) -> list[str]:
        """The stems that belong to the set."""
        return list(pictures)

    def picture(self, name: str) -> "Image":
        return read_picture(self._pictures[name])

    def truth(self, name: str) -> Int[Tensor, "people height width"]:
        values = read_index(self._labels[name])
        return torch.from_numpy(self._meaning(values).astype(np.int64))[None]

    def _meaning(self, values: np.ndarray) -> np.ndarray:
        """Labels from the pixel values of the label file."""
        return values


def files_in(folder: Path, endings: tuple[str, ...]) -> dict[str, Path]:
    """Files with these endings below a folder, by relative path without ending.

    Raises:
        DataSetError: There is no such folder.
    """
    if not folder.is_dir():
        raise DataSetError(f"expected a folder, but there is none: {folder}")
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in folder.rglob("*")
        if path.suffix.lower() in endings and not path.name.startswith(".")
    }


def read_index(path: Path) -> Int[np.ndarray, "height width"]:
    """Pixel values of a label picture as stored, without applying its palette.

    Of a label picture in colour the largest channel is taken.

    Raises:
        ImageError: The file is damaged.
    """

    def decoded() -> np.ndarray:
        from PIL import Image

        with Image.open(path) as image:
            return np.asarray(image)

    values = guarded(decoded, path)
    return values.astype(np.int64) if values.ndim == 2 else values.max(-1).astype(int)


def guarded(read: Callable[[], Value], path: Path) -> Value:
    """The result of a reader; what it raises on damaged files becomes ImageError."""
    try:
        return read()
    except (OSError, SyntaxError, ValueError, TypeError, LookupError) as error:
        raise ImageError(f"the labels cannot be read: {path} ({error})") from error
