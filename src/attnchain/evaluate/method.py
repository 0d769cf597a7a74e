"""A method of an evaluation: a function with all its settings, as a value."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from attnchain.evaluate.subject import Layers


@dataclass(frozen=True)
class Method:
    """A method with all its settings.

    Words are for people only: nothing is read out of `family` or `setting`.

    Attributes:
        family: The method without its settings; a setting is chosen in each family.
        layers: The layers it reads, counted from 0.
        function: Computes its result from the subject, what else the protocol gives,
            and the keyword arguments `layers` and `settings`.
        settings: Keyword arguments of the function.
        setting: In words, what tells it from others of its family.
        own: Whether it is what the library's own command computes.
    """

    family: str
    layers: Layers
    function: Callable[..., Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    setting: str = ""
    own: bool = False

    @property
    def name(self) -> str:
        """Its own name, under which its scores are kept."""
        return f"{self.family}, {self.setting}" if self.setting else self.family

    @property
    def title(self) -> str:
        """Its name in tables."""
        return f"**{self.name}** ({named(self.layers)})" if self.own else self.name

    def run(self, *given: Any) -> Any:
        """What it finds."""
        return self.function(*given, layers=self.layers, **self.settings)


def named(layers: Layers) -> str:
    """Layers as text: "11", "10-11"."""
    return str(layers[0]) if len(layers) == 1 else f"{layers[0]}-{layers[-1]}"


def late(depth: int, count: int, *, skip: int = 0) -> Layers:
    """So many layers at the end of a model, some after them left out.

    Example:
        >>> late(12, 2), late(12, 4, skip=2), late(1, 3, skip=1)
        ((10, 11), (6, 7, 8, 9), (0,))
    """
    end = max(depth - skip, 1)
    return tuple(range(max(end - count, 0), end))
