"""Reads a transformer's attention as a Markov chain."""

# chains over attention
# from a running model
from attnchain.capturing import AttentionRecord, TokenGrid, capture
from attnchain.errors import ChainError

# questions to a chain
from attnchain.markov import metastable_sets, mix, propagate, spectrum, stationary
from attnchain.operators import AbstractTransition, as_transition
from attnchain.optional import declare_torchvision_operators as _declare

# what users came for
from attnchain.ranking import token_rank
from attnchain.vision import segment

_declare()

__version__ = "0.1.0"

__all__ = [
    "AbstractTransition",
    "AttentionRecord",
    "ChainError",
    "TokenGrid",
    "__version__",
    "as_transition",
    "capture",
    "metastable_sets",
    "mix",
    "propagate",
    "segment",
    "spectrum",
    "stationary",
    "token_rank",
]
