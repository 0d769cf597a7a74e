"""Data sets of regions drawn by several people."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from attnchain.evaluate.datasets.base import PairedFolders, guarded


class Bsds500(PairedFolders):
    """BSDS500 in the layout of the open data: regions by 4 to 9 people."""

    kind = "regions"
    about = "images/*.jpg and masks/*.mat (groundTruth)"
    label_ending = ".mat"

    def truth(self, name: str) -> Int[Tensor, "people height width"]:
        from scipy.io import loadmat

        path = self._labels[name]

        def decoded() -> np.ndarray:
            people = loadmat(str(path))["groundTruth"][0]
            drawn = [person["Segmentation"][0, 0] for person in people]
            return np.stack(drawn).astype(np.int64)

        return torch.from_numpy(guarded(decoded, path))


class Bsds500Public(Bsds500):
    """BSDS500 in its own layout, test part."""

    about = "data/images/test/*.jpg and data/groundTruth/test/*.mat"
    pictures = "data/images/test"
    labels = "data/groundTruth/test"
