"""Reads a transformer's attention as a Markov chain."""

# chains over attention
from attnchain.operators import AbstractTransition, as_transition

__version__ = "0.1.0"

__all__ = ["AbstractTransition", "__version__", "as_transition"]
