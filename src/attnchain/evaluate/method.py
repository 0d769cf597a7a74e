"""A method of an evaluation with all its settings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from attnchain.evaluate.subject import Layers


@dataclass(frozen=True)
class Method:
    """A method with all its settings.

    Attributes:
        name: Its own name, settings included.
        family: The method without its settings; a setting is chosen in each family.
        layers: The layers it reads, counted from 0.
        run: Computes its result; what it takes depends on the protocol.
    """

    name: str
    family: str
    layers: Layers
    run: Callable[..., Any]


def named(layers: Layers) -> str:
    """Layers as text: "11", "10-11"."""
    return str(layers[0]) if len(layers) == 1 else f"{layers[0]}-{layers[-1]}"


def late_sets(depth: int, *, last: bool) -> list[Layers]:
    """The late one, two and three layers, up to the last or to the one before it.

    Args:
        depth: Number of layers of the model.
        last: Whether the last layer belongs to them.
    """
    top = depth if last else depth - 1
    sets = [tuple(range(max(top - k, 0), top)) for k in (1, 2, 3)]
    return [layers for layers in dict.fromkeys(sets) if layers]
