"""Methods of other papers, one file for each, read as operations on chains."""

from attnchain.methods.diffseg import Regions, segment_regions
from attnchain.methods.iseg import entropy_reduced, guided_filter, refine_map

__all__ = [
    "Regions",
    "entropy_reduced",
    "guided_filter",
    "refine_map",
    "segment_regions",
]
