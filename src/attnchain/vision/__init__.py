"""Pictures: their attention as chains, and segments read from it.

`read_attention` reads a picture's chains. Each question to them is a function:
`segment_sets` cuts the picture into metastable sets, `segment_point` takes the object
under a point, `segment_object` the main one (with the model's probe, which `fit_probe`
fits on masks, where it has one), `Clicks` what one's marks say; `rank_patches` says
which patches matter. `segment_video` follows what it finds in the first frame through
the others. `segment` reads and asks in one call. Every answer is a `Segmentation`.
"""

from attnchain.vision.borders import object_mask
from attnchain.vision.clicks import Clicks, ClickSegmentation
from attnchain.vision.exports import EXPORTS, check_exports, cutout, polygons
from attnchain.vision.marks import Prompt, segment_prompt
from attnchain.vision.objects import segment_object, segment_point
from attnchain.vision.picture_attention import PictureAttention, read_attention
from attnchain.vision.probing import fit_probe
from attnchain.vision.ranks import PictureRank, rank_patches
from attnchain.vision.segmentation import (
    ObjectSegmentation,
    PictureSegmentation,
    Segmentation,
)
from attnchain.vision.segments import DEFAULT_LAYERS, check_options, segment
from attnchain.vision.sets import SetSegmentation, segment_sets
from attnchain.vision.tracking import (
    FrameSegmentation,
    Track,
    begin_track,
    segment_video,
)

__all__ = [
    "DEFAULT_LAYERS",
    "EXPORTS",
    "ClickSegmentation",
    "Clicks",
    "FrameSegmentation",
    "ObjectSegmentation",
    "PictureAttention",
    "PictureRank",
    "PictureSegmentation",
    "Prompt",
    "Segmentation",
    "SetSegmentation",
    "Track",
    "begin_track",
    "check_exports",
    "check_options",
    "cutout",
    "fit_probe",
    "object_mask",
    "polygons",
    "rank_patches",
    "read_attention",
    "segment",
    "segment_object",
    "segment_point",
    "segment_prompt",
    "segment_sets",
    "segment_video",
]
