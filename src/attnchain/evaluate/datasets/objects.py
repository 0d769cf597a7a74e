"""Data sets of one object against the rest, by their folder layouts."""

import numpy as np

from attnchain.evaluate.datasets.base import VOID, PairedFolders


class BrightObject(PairedFolders):
    """Label pictures in which the object is bright."""

    kind = "object"

    def _meaning(self, values: np.ndarray) -> np.ndarray:
        return (values > 127).astype(np.int64)


class Trimap(PairedFolders):
    """Label pictures with 255 for the object, 128 for unknown, darker for the rest."""

    kind = "object"

    def _meaning(self, values: np.ndarray) -> np.ndarray:
        return np.where(values == 128, VOID, (values > 128).astype(np.int64))


class GrabCut(Trimap):
    """GrabCut pictures in the layout of the open data."""

    about = "images/*.png and masks/*.png (0 rest, 128 unknown, 255 object)"


class GrabCutPublic(Trimap):
    """GrabCut in the layout of the interactive segmentation papers."""

    about = "data_GT/* and boundary_GT/*.bmp (0 rest, 128 unknown, 255 object)"
    pictures = "data_GT"
    labels = "boundary_GT"
    label_ending = ".bmp"


class Berkeley(BrightObject):
    """Berkeley, as used for interactive segmentation (96 pictures)."""

    about = "images/*.jpg and masks/*.png (255 object)"


class VocObjects(Trimap):
    """One chosen object in each VOC picture of the open data."""

    about = "images/*.png and objects/*.png (0 rest, 128 unknown, 255 object)"
    labels = "objects"


class DavisFrames(BrightObject):
    """Single frames of DAVIS 2016 in the layout of the open data."""

    about = "images/SEQUENCE_FRAME.jpg and masks/SEQUENCE_FRAME.png (255 object)"


class Davis2016(BrightObject):
    """DAVIS 2016, 480p: one folder for each sequence."""

    about = "JPEGImages/480p/SEQUENCE/*.jpg and Annotations/480p/SEQUENCE/*.png"
    pictures = "JPEGImages/480p"
    labels = "Annotations/480p"


class DavisClicks(BrightObject):
    """The 345 DAVIS frames used for interactive segmentation."""

    about = "img/*.jpg and gt/*.png (object not black)"
    pictures = "img"
    labels = "gt"

    def _meaning(self, values: np.ndarray) -> np.ndarray:
        return (values > 0).astype(np.int64)


class Ecssd(BrightObject):
    """ECSSD, 1,000 salient objects."""

    about = "images/*.jpg and ground_truth_mask/*.png"
    labels = "ground_truth_mask"


class Duts(BrightObject):
    """DUTS test set, 5,019 salient objects."""

    about = "DUTS-TE-Image/*.jpg and DUTS-TE-Mask/*.png"
    pictures = "DUTS-TE-Image"
    labels = "DUTS-TE-Mask"


class DutOmron(BrightObject):
    """DUT-OMRON, 5,168 salient objects."""

    about = "DUT-OMRON-image/*.jpg and pixelwiseGT-new-PNG/*.png"
    pictures = "DUT-OMRON-image"
    labels = "pixelwiseGT-new-PNG"
