"""Hard retrieval attention: each query takes one key, not a mean of all.

Drawing one key for each query is one step of the chain: paths of such steps
(`sampled_paths`) estimate any number of bounces. Taking the likeliest key makes the
chain a map of states to states (`functional_graph`), whose walks end in cycles.
`HardAttention` learns with drawn keys, and `HardRetrieval` runs a model that has
learned without them.

Sources:
    Xu, Liu, van Genabith, Xiong, Hard Retrieval Decoder Attention, Findings of EMNLP
    2021, arXiv 2009.14658; from the formulas, none of its code was used.
"""

from attnchain.methods.hard_retrieval.arg_max import FunctionalGraph, functional_graph
from attnchain.methods.hard_retrieval.drawn_keys import HardAttention
from attnchain.methods.hard_retrieval.retrieving import HardRetrieval, retrieve
from attnchain.methods.hard_retrieval.walks import SampledPaths, sampled_paths

__all__ = [
    "FunctionalGraph",
    "HardAttention",
    "HardRetrieval",
    "SampledPaths",
    "functional_graph",
    "retrieve",
    "sampled_paths",
]
