"""What users come for: token importance, segments and guidance, from any attention.

Ranking: `token_rank`. Pictures: `read_attention`, `segment`, `Clicks`,
`segment_regions`. Words: `segment_words`, `text_attention`, `read_diffusion`.
Readouts of a map: `refine_map`, `guided_filter`. Better samples: `guide`.
"""

from attnchain.tasks.clicks import Clicks, ClickSegmentation
from attnchain.tasks.diffusion import read_diffusion
from attnchain.tasks.figures import patch_centre, segment_names
from attnchain.tasks.guidance import AttentionGuidance, Salience, guide
from attnchain.tasks.ranking import TokenRank, token_rank
from attnchain.tasks.reading import PictureAttention, read_attention
from attnchain.tasks.refinement import entropy_reduced, guided_filter, refine_map
from attnchain.tasks.regions import Regions, segment_regions
from attnchain.tasks.segmentation import DEFAULT_LAYERS, Segmentation, segment
from attnchain.tasks.words import (
    TextAttention,
    WordSegmentation,
    segment_words,
    text_attention,
)

__all__ = [
    "DEFAULT_LAYERS",
    "AttentionGuidance",
    "ClickSegmentation",
    "Clicks",
    "PictureAttention",
    "Regions",
    "Salience",
    "Segmentation",
    "TextAttention",
    "TokenRank",
    "WordSegmentation",
    "entropy_reduced",
    "guide",
    "guided_filter",
    "patch_centre",
    "read_attention",
    "read_diffusion",
    "refine_map",
    "segment",
    "segment_names",
    "segment_regions",
    "segment_words",
    "text_attention",
    "token_rank",
]
