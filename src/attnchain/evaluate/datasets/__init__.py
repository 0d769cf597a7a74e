"""Data sets by the layout of their folders; nothing is downloaded."""

from pathlib import Path

from attnchain.errors import DataSetError
from attnchain.evaluate.datasets.base import VOID, DataSet, Kind
from attnchain.evaluate.datasets.classes import (
    Coco128,
    CocoStuff27,
    Voc2012,
    VocClasses,
)
from attnchain.evaluate.datasets.imagenet import ImageNetSegmentation
from attnchain.evaluate.datasets.objects import (
    Berkeley,
    Davis2016,
    DavisClicks,
    DavisFrames,
    DutOmron,
    Duts,
    Ecssd,
    GrabCut,
    GrabCutPublic,
    VocObjects,
)
from attnchain.evaluate.datasets.regions import Bsds500, Bsds500Public

LAYOUTS: dict[str, type[DataSet]] = {
    "grabcut": GrabCut,
    "davis16val": DavisFrames,
    "voc99-objects": VocObjects,
    "voc99": VocClasses,
    "coco128": Coco128,
    "bsds500": Bsds500,
    "imagenet-segmentation": ImageNetSegmentation,
    "voc2012": Voc2012,
    "coco-stuff-27": CocoStuff27,
    "ecssd": Ecssd,
    "duts": Duts,
    "dut-omron": DutOmron,
    "grabcut-public": GrabCutPublic,
    "berkeley": Berkeley,
    "davis345": DavisClicks,
    "davis2016": Davis2016,
    "bsds500-public": Bsds500Public,
}


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
        attnchain.errors.DataSetError: GrabCut: no-such-folder does not exist; ...
    """
    if layout not in LAYOUTS:
        known = ", ".join(LAYOUTS)
        raise DataSetError(f"no layout is called {layout!r}; known are {known}")
    return LAYOUTS[layout](root)


__all__ = ["LAYOUTS", "VOID", "DataSet", "Kind", "open_data_set"]
