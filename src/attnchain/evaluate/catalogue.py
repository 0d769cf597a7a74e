"""The table of data sets: one entry each; nothing is downloaded."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from attnchain.errors import DataSetError
from attnchain.evaluate.datasets import (
    DataSet,
    Found,
    Item,
    Layout,
    Truth,
    label_pictures,
    paired,
)
from attnchain.evaluate.labels import (
    VOID,
    LabelPicture,
    Labels,
    bright_object,
    class_numbers,
    guarded,
    not_black,
    object_beside,
    trimap,
)
from attnchain.models import PICTURE_ENDINGS
from attnchain.optional import require

if TYPE_CHECKING:
    from PIL.Image import Image

_THINGS = (
    *((1, 9), (8, 11), (6, 8), (10, 7)),  # person, vehicle, outdoor, animal
    *((8, 6), (10, 10), (8, 5), (10, 2)),  # accessory, sports, kitchen, food
    *((10, 3), (6, 0), (6, 1), (8, 4)),  # furniture, electronic, appliance, indoor
)
_STUFF = (
    *(17, 17, 22, 20, 20, 22, 15, 25, 16, 13, 12, 12, 17, 17, 23, 15, 15, 17, 15, 21),
    *(15, 25, 13, 13, 13, 13, 13, 22, 26, 14, 14, 15, 22, 21, 21, 24, 20, 22, 15, 17),
    *(16, 15, 22, 24, 21, 17, 25, 16, 21, 17, 22, 16, 21, 21, 25, 21, 26, 21, 24, 20),
    *(17, 14, 21, 26, 15, 23, 20, 21, 24, 15, 24, 22, 25, 15, 20, 17, 17, 22, 14, 18),
    *(18, 18, 18, 18, 18, 18, 26, 26, 19, 19, 24),
)
COARSE: Final = np.array([c for n, c in _THINGS for _ in range(n)] + list(_STUFF))
"""Group of each of the 182 numbers of COCO-Stuff: 12 of things, 15 of stuff."""


def coarse_groups(picture: LabelPicture) -> Labels:
    """The 27 groups of COCO-Stuff's numbers."""
    numbers = class_numbers(picture, count=len(COARSE))
    return np.where(numbers == VOID, VOID, COARSE[numbers.clip(min=0)])


def stems(
    root: Path, known: Iterable[str], *, file: str, optional: bool = False
) -> list[str]:
    """The names in a list file, one in each line; all where it may be missing.

    Raises:
        DataSetError: There is no such file, or it names a picture that is not there.
    """
    path = root / file
    if not path.is_file():
        if optional:
            return list(known)
        raise DataSetError(f"expected the list of pictures, but there is none: {path}")
    names = path.read_text(encoding="utf-8").split()
    missing = sorted(set(names) - set(known))
    if missing:
        raise DataSetError(f"{path} names {missing[0]!r}, but there is no such picture")
    return names


def drawn_regions(path: Path) -> Truth:
    """The regions drawn by each person, from a MATLAB file of BSDS500."""
    from scipy.io import loadmat

    def decoded() -> np.ndarray:
        people = loadmat(str(path))["groundTruth"][0]
        drawn = [person["Segmentation"][0, 0] for person in people]
        return np.stack(drawn).astype(np.int64)

    return torch.from_numpy(guarded(decoded, path))


def imagenet_segmentation(place: Path) -> Found:
    """All pictures and masks of one MATLAB 7.3 file, which is HDF5.

    Args:
        place: The file `gtsegs_ijcv.mat`, or its folder.

    Raises:
        DataSetError: The file is missing or is not that file.
        MissingExtraError: h5py is not installed.

    Sources:
        Guillaumin, Küttel and Ferrari, ImageNet auto-annotation with segmentation
        propagation, 2014, for the data.
    """
    path = place / "gtsegs_ijcv.mat" if place.is_dir() else place
    h5py = require("h5py", extra="evaluate", feature="ImageNet-Segmentation")
    try:
        file = h5py.File(path, "r")
        count = len(file["value/img"])
    except (OSError, KeyError) as error:
        message = f"{path} is not the file gtsegs_ijcv.mat ({error})"
        raise DataSetError(message) from error
    return Found({f"{i:04d}": _of_hdf5(file, path, i) for i in range(count)})


def _of_hdf5(file: Any, path: Path, index: int) -> Item:
    """One picture; MATLAB stores axes in reverse order."""

    def pixels() -> np.ndarray:
        return np.asarray(file[file["value/img"][index, 0]]).T.astype(np.uint8)

    def mask() -> np.ndarray:
        inner = file[file["value/gt"][index, 0]]
        return (np.asarray(file[inner[0, 0]]).T > 0).astype(np.int64)

    def picture() -> "Image":
        from PIL import Image

        return Image.fromarray(guarded(pixels, path)).convert("RGB")

    return Item(
        picture=picture,
        truth=lambda: torch.from_numpy(guarded(mask, path))[None],
        content=lambda: (pixels().tobytes(), mask().tobytes()),
    )


_OBJECT: Final = "(0 rest, 255 object)"
_TRIMAP: Final = "(0 rest, 128 unknown, 255 object)"
_object: Final = partial(paired, read=label_pictures(bright_object))
_trimap: Final = partial(paired, read=label_pictures(trimap))


def _classes(count: int, unlabelled: int = 255) -> Callable[..., Found]:
    convention = partial(class_numbers, count=count, unlabelled=unlabelled)
    return partial(paired, read=label_pictures(convention))


LAYOUTS: Final[dict[str, Layout]] = {
    "grabcut": Layout(
        "GrabCut, open data",
        "object",
        f"images/*.png and masks/*.png {_TRIMAP}",
        _trimap,
    ),
    "davis16val": Layout(
        "DAVIS 2016, single frames of the open data",
        "object",
        f"images/SEQUENCE_FRAME.jpg and masks/SEQUENCE_FRAME.png {_OBJECT}",
        _object,
    ),
    "voc99-objects": Layout(
        "VOC, one chosen object in each picture of the open data",
        "object",
        f"images/*.png and objects/*.png {_TRIMAP}",
        partial(_trimap, labels="objects"),
    ),
    "voc99": Layout(
        "VOC, open data",
        "classes",
        "images/*.png and masks/*.png (class numbers 0 to 20, 255 void)",
        _classes(21),
    ),
    "coco128": Layout(
        "COCO128, open data",
        "classes",
        "images/*.jpg and masks/*.png (class + 1, 0 unlabelled)",
        _classes(81, unlabelled=0),
    ),
    "bsds500": Layout(
        "BSDS500, open data",
        "regions",
        "images/*.jpg and masks/*.mat (groundTruth)",
        partial(paired, read=drawn_regions, endings=(".mat",)),
    ),
    "imagenet-segmentation": Layout(
        "ImageNet-Segmentation", "object", "gtsegs_ijcv.mat", imagenet_segmentation
    ),
    "voc2012": Layout(
        "PASCAL VOC 2012, validation part",
        "classes",
        "the folder VOC2012: JPEGImages, SegmentationClass, ImageSets/Segmentation",
        partial(
            _classes(21),
            pictures="JPEGImages",
            labels="SegmentationClass",
            listed=partial(stems, file="ImageSets/Segmentation/val.txt"),
        ),
    ),
    "coco-stuff-27": Layout(
        "COCO-Stuff, validation part, in 27 groups of classes",
        "classes",
        "images/val2017/*.jpg, annotations/val2017/*.png (0 to 181, 255 void) and, if "
        "wanted, the list curated/val2017/Coco164kFull_Stuff_Coarse_7.txt",
        partial(
            paired,
            read=label_pictures(coarse_groups),
            pictures="images/val2017",
            labels="annotations/val2017",
            listed=partial(
                stems,
                file="curated/val2017/Coco164kFull_Stuff_Coarse_7.txt",
                optional=True,
            ),
        ),
    ),
    "ecssd": Layout(
        "ECSSD",
        "object",
        f"images/*.jpg and ground_truth_mask/*.png {_OBJECT}",
        partial(_object, labels="ground_truth_mask"),
    ),
    "duts": Layout(
        "DUTS, test part",
        "object",
        f"DUTS-TE-Image/*.jpg and DUTS-TE-Mask/*.png {_OBJECT}",
        partial(_object, pictures="DUTS-TE-Image", labels="DUTS-TE-Mask"),
    ),
    "dut-omron": Layout(
        "DUT-OMRON",
        "object",
        f"DUT-OMRON-image/*.jpg and pixelwiseGT-new-PNG/*.png {_OBJECT}",
        partial(_object, pictures="DUT-OMRON-image", labels="pixelwiseGT-new-PNG"),
    ),
    "grabcut-public": Layout(
        "GrabCut, as the papers on interactive segmentation use it",
        "object",
        f"data_GT/* and boundary_GT/*.bmp {_TRIMAP}",
        partial(_trimap, pictures="data_GT", labels="boundary_GT", endings=(".bmp",)),
    ),
    "berkeley": Layout(
        "Berkeley, as the papers on interactive segmentation use it",
        "object",
        f"images/*.jpg and masks/*.png {_OBJECT}",
        _object,
    ),
    "davis345": Layout(
        "DAVIS, the 345 frames used for interactive segmentation",
        "object",
        "img/*.jpg and gt/*.png (object not black)",
        partial(paired, read=label_pictures(not_black), pictures="img", labels="gt"),
    ),
    "davis2016": Layout(
        "DAVIS 2016, 480p, one folder for each sequence",
        "object",
        "JPEGImages/480p/SEQUENCE/*.jpg and Annotations/480p/SEQUENCE/*.png",
        partial(_object, pictures="JPEGImages/480p", labels="Annotations/480p"),
    ),
    "bsds500-public": Layout(
        "BSDS500, test part",
        "regions",
        "data/images/test/*.jpg and data/groundTruth/test/*.mat",
        partial(
            paired,
            read=drawn_regions,
            pictures="data/images/test",
            labels="data/groundTruth/test",
            endings=(".mat",),
        ),
    ),
}


def own_data_set(images: Path, masks: Path, *, void: int | None = None) -> DataSet:
    """Pictures of one's own with masks of one object each.

    Args:
        images: Folder of the pictures.
        masks: Folder of the masks, of the same names; endings may differ. 0 is the
            rest and one other value the object.
        void: Value of pixels that are not scored.

    Returns:
        The data set.

    Raises:
        DataSetError: A folder is missing or empty, or a picture has no mask.
    """
    read = label_pictures(object_beside(void))

    def find(_root: Path) -> Found:
        pictures, labels = str(images.absolute()), str(masks.absolute())
        endings = PICTURE_ENDINGS
        return paired(Path(), read, pictures=pictures, labels=labels, endings=endings)

    about = f"pictures, with masks {_OBJECT} in {masks}"
    return DataSet(Layout(f"pictures in {images}", "object", about, find), images)


def open_data_set(layout: str, root: str | Path) -> DataSet:
    """Opens a data set.

    Args:
        layout: A name in `LAYOUTS`.
        root: Where the data lie.

    Returns:
        The data set.

    Raises:
        DataSetError: Unknown layout, or the data are missing or unpaired.

    Example:
        >>> open_data_set("grabcut", "no-such-folder")
        Traceback (most recent call last):
        ...
        attnchain.errors.DataSetError: GrabCut, open data: no-such-folder does not ...
    """
    if layout not in LAYOUTS:
        known = ", ".join(LAYOUTS)
        raise DataSetError(f"no layout is called {layout!r}; known are {known}")
    return DataSet(LAYOUTS[layout], root)
