"""What users come for: token importance and segments, from any captured attention."""

from attnchain.tasks.figures import patch_centre, segment_names
from attnchain.tasks.ranking import TokenRank, token_rank
from attnchain.tasks.reading import PictureAttention, read_attention
from attnchain.tasks.segmentation import DEFAULT_LAYERS, Segmentation, segment

__all__ = [
    "DEFAULT_LAYERS",
    "PictureAttention",
    "Segmentation",
    "TokenRank",
    "patch_centre",
    "read_attention",
    "segment",
    "segment_names",
    "token_rank",
]
