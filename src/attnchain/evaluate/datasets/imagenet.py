"""ImageNet-Segmentation: all pictures and masks in one MATLAB file."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from attnchain.errors import DataSetError
from attnchain.evaluate.datasets.base import DataSet, guarded
from attnchain.optional import require

if TYPE_CHECKING:
    from PIL.Image import Image


class ImageNetSegmentation(DataSet):
    """ImageNet-Segmentation, 4,276 pictures with one main object each.

    Args:
        root: The file `gtsegs_ijcv.mat` (MATLAB 7.3, that is HDF5), or its folder.

    Raises:
        DataSetError: The file is missing or is not that file.
        MissingExtraError: h5py is not installed.

    Sources:
        Guillaumin, Küttel and Ferrari, ImageNet auto-annotation with segmentation
        propagation, 2014, for the data.
    """

    kind = "object"
    about = "gtsegs_ijcv.mat"

    def __init__(self, root: str | Path) -> None:
        place = Path(root)
        super().__init__(place / "gtsegs_ijcv.mat" if place.is_dir() else place)

    def _names(self) -> Iterator[str]:
        h5py = require("h5py", extra="evaluate", feature="ImageNet-Segmentation")
        try:
            self._file: Any = h5py.File(self.root, "r")
            count = len(self._file["value/img"])
        except (OSError, KeyError) as error:
            message = f"{self.root} is not the file gtsegs_ijcv.mat ({error})"
            raise DataSetError(message) from error
        for index in range(count):
            yield f"{index:04d}"

    def _array(self, field: str, name: str) -> np.ndarray:
        """What a field refers to; MATLAB stores axes in reverse order."""
        found = self._file[self._file[f"value/{field}"][int(name), 0]]
        if field == "gt":
            found = self._file[found[0, 0]]
        return np.asarray(found).T

    def picture(self, name: str) -> "Image":
        from PIL import Image

        pixels = guarded(lambda: self._array("img", name), self.root)
        return Image.fromarray(pixels.astype(np.uint8)).convert("RGB")

    def truth(self, name: str) -> Int[Tensor, "people height width"]:
        mask = guarded(lambda: self._array("gt", name), self.root)
        return torch.from_numpy((mask > 0).astype(np.int64))[None]
