"""Reads a transformer's attention as a Markov chain."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from attnchain.errors import ChainError
from attnchain.optional import repair_torchvision as _repair

if TYPE_CHECKING:
    # chains over attention
    # from a running model
    from attnchain.capturing import AttentionRecord, TokenGrid, capture, load_capture

    # texts
    from attnchain.language import read_text

    # questions to a chain
    from attnchain.markov import metastable_sets, mix, propagate, spectrum, stationary

    # models by name
    from attnchain.models import load
    from attnchain.operators import AbstractTransition, as_transition

    # what users came for
    from attnchain.ranking import token_rank
    from attnchain.vision import segment

_repair()

__version__ = "0.2.0"

__all__ = [
    "AbstractTransition",
    "AttentionRecord",
    "ChainError",
    "TokenGrid",
    "__version__",
    "as_transition",
    "capture",
    "load",
    "load_capture",
    "metastable_sets",
    "mix",
    "propagate",
    "read_text",
    "segment",
    "spectrum",
    "stationary",
    "token_rank",
]

_PLACES = {
    "AbstractTransition": "operators",
    "AttentionRecord": "capturing",
    "TokenGrid": "capturing",
    "as_transition": "operators",
    "capture": "capturing",
    "load": "models",
    "load_capture": "capturing",
    "metastable_sets": "markov",
    "mix": "markov",
    "propagate": "markov",
    "read_text": "language",
    "segment": "vision",
    "spectrum": "markov",
    "stationary": "markov",
    "token_rank": "ranking",
}
_PACKAGES = (*_PLACES.values(), "models", "plot", "maps", "readouts", "checks")


def __getattr__(name: str) -> Any:
    """Loads torch when a name is first asked for: `attnchain --version` needs none."""
    if name in _PLACES:
        value = getattr(import_module(f"attnchain.{_PLACES[name]}"), name)
    elif name in _PACKAGES:
        value = import_module(f"attnchain.{name}")
    else:
        raise AttributeError(f"module 'attnchain' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
