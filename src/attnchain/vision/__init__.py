"""Pictures: their attention as chains, and segments read from it without training.

`read_attention` reads a picture's chains, `segment` cuts it into metastable sets, the
object under a point or the main object, `Clicks` into what one's marks say.
"""

from attnchain.vision.attention import PictureAttention, read_attention
from attnchain.vision.clicks import Clicks, ClickSegmentation
from attnchain.vision.figures import patch_centre, segment_names
from attnchain.vision.segments import DEFAULT_LAYERS, Segmentation, segment

__all__ = [
    "DEFAULT_LAYERS",
    "ClickSegmentation",
    "Clicks",
    "PictureAttention",
    "Segmentation",
    "patch_centre",
    "read_attention",
    "segment",
    "segment_names",
]
