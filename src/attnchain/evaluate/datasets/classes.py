"""Data sets with a class for every pixel, by their folder layouts."""

from pathlib import Path

import numpy as np

from attnchain.errors import DataSetError
from attnchain.evaluate.datasets.base import VOID, PairedFolders

_THINGS = (
    (1, 9),  # person
    (8, 11),  # vehicle
    (6, 8),  # outdoor
    (10, 7),  # animal
    (8, 6),  # accessory
    (10, 10),  # sports
    (8, 5),  # kitchen
    (10, 2),  # food
    (10, 3),  # furniture
    (6, 0),  # electronic
    (6, 1),  # appliance
    (8, 4),  # indoor
)
_STUFF = (
    *(17, 17, 22, 20, 20, 22, 15, 25, 16, 13, 12, 12, 17, 17, 23, 15, 15, 17, 15, 21),
    *(15, 25, 13, 13, 13, 13, 13, 22, 26, 14, 14, 15, 22, 21, 21, 24, 20, 22, 15, 17),
    *(16, 15, 22, 24, 21, 17, 25, 16, 21, 17, 22, 16, 21, 21, 25, 21, 26, 21, 24, 20),
    *(17, 14, 21, 26, 15, 23, 20, 21, 24, 15, 24, 22, 25, 15, 20, 17, 17, 22, 14, 18),
    *(18, 18, 18, 18, 18, 18, 26, 26, 19, 19, 24),
)
COARSE = np.array([c for n, c in _THINGS for _ in range(n)] + list(_STUFF))
"""Group of each of the 182 numbers of COCO-Stuff: 12 of things, 15 of stuff."""


class Classes(PairedFolders):
    """Label pictures with the number of a class; 255 is not scored."""

    kind = "classes"

    def _meaning(self, values: np.ndarray) -> np.ndarray:
        return np.where(values == 255, VOID, values)


class VocClasses(Classes):
    """VOC pictures of the open data; 0 is the background."""

    about = "images/*.png and masks/*.png (class numbers, 255 void)"


class Voc2012(Classes):
    """PASCAL VOC 2012, validation part; 0 is the background."""

    about = "the folder VOC2012: JPEGImages, SegmentationClass, ImageSets/Segmentation"
    pictures = "JPEGImages"
    labels = "SegmentationClass"

    def _listed(self, pictures: dict[str, Path]) -> list[str]:
        return listed(self.root / "ImageSets/Segmentation/val.txt", pictures)


class Coco128(Classes):
    """COCO128 of the open data; pixels without a label are not scored."""

    about = "images/*.jpg and masks/*.png (class + 1, 0 unlabelled)"

    def _meaning(self, values: np.ndarray) -> np.ndarray:
        return np.where(values == 0, VOID, values)


class CocoStuff27(Classes):
    """COCO-Stuff, validation part, in 27 groups of classes.

    Where the list of the 2,175 pictures usually scored is there, only those are taken.
    """

    about = (
        "images/val2017/*.jpg, annotations/val2017/*.png (numbers 0 to 181, 255 void) "
        "and, if wanted, curated/val2017/Coco164kFull_Stuff_Coarse_7.txt"
    )
    pictures = "images/val2017"
    labels = "annotations/val2017"

    def _listed(self, pictures: dict[str, Path]) -> list[str]:
        chosen = self.root / "curated/val2017/Coco164kFull_Stuff_Coarse_7.txt"
        return listed(chosen, pictures) if chosen.exists() else list(pictures)

    def _meaning(self, values: np.ndarray) -> np.ndarray:
        known = values < len(COARSE)
        return np.where(known, COARSE[np.where(known, values, 0)], VOID)


def listed(file: Path, pictures: dict[str, Path]) -> list[str]:
    """The stems in a list file, one in each line.

    Raises:
        DataSetError: There is no such file, or it names a picture that is not there.
    """
    if not file.is_file():
        raise DataSetError(f"expected the list of pictures, but there is none: {file}")
    stems = file.read_text(encoding="utf-8").split()
    for stem in stems:
        if stem not in pictures:
            raise DataSetError(f"{file} names {stem!r}, but there is no such picture")
    return stems
