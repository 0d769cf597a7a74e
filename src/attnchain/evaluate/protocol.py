"""What a protocol is: which pictures, which methods, how they are scored."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from attnchain.errors import DataSetError
from attnchain.evaluate.datasets import Kind, Truth
from attnchain.evaluate.method import Method
from attnchain.evaluate.report import Record, Results, Table
from attnchain.evaluate.subject import Subject, read_subject
from attnchain.models import layer_stack

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

    from attnchain.models import LoadedModel

Result = TypeVar("Result")
FAILURES = (ValueError, RuntimeError, OSError, LookupError, ArithmeticError)
"""What a damaged picture or a solver that stops may raise."""


class Protocol(ABC):
    """One way of scoring methods; scores of two protocols are not comparable.

    Args:
        model: What `attnchain.models.load` returned.
        size: Longer side the pictures are resized to, in pixels.
        families: Methods to run, by family; all by default.

    Raises:
        DataSetError: A family is unknown.
    """

    name: ClassVar[str]
    kinds: ClassVar[tuple[Kind, ...]]
    size: ClassVar[int]

    def __init__(
        self,
        model: "LoadedModel",
        *,
        size: int | None = None,
        families: Sequence[str] | None = None,
    ) -> None:
        self.model = model
        self.pixels = size or self.size
        every = self.all_methods(len(layer_stack(model.model)))
        known = list(dict.fromkeys(method.family for method in every))
        unknown = [family for family in families or () if family not in known]
        if unknown:
            raise DataSetError(
                f"no method of the protocol {self.name!r} is called {unknown[0]!r}; "
                f"known are {'; '.join(known)}"
            )
        self.methods = [m for m in every if not families or m.family in families]

    @abstractmethod
    def all_methods(self, depth: int) -> list[Method]:
        """All methods for a model with that many layers."""

    @abstractmethod
    def tables(self, results: Results) -> list[Table]:
        """The results as tables."""

    @abstractmethod
    def figures(self, results: Results) -> "dict[str, Figure]":
        """The results as figures, by file name ending."""

    def scores(self, picture: "Image", truth: Truth) -> dict[str, Any]:
        """Scores of all methods on one picture, by name.

        Raises:
            DataSetError: The labels give this protocol nothing to score.
        """
        subject = read_subject(picture, self.model, size=self.pixels)
        return {m.name: self.scored(m, subject, truth) for m in self.methods}

    def scored(self, method: Method, subject: Subject, truth: Truth) -> Record:
        """Scores of one method."""
        raise NotImplementedError

    @property
    def settings(self) -> Record:
        """What the results depend on."""
        return {
            "protocol": self.name,
            "model": self.model.name,
            "size": self.pixels,
            "methods": {
                m.name: {"layers": m.layers, **m.settings} for m in self.methods
            },
        }


def attempted(
    run: Callable[[], Result], instead: Result
) -> tuple[Result, dict[str, str]]:
    """What a method gave; where it fails, a stand-in and the reason under "failed"."""
    try:
        return run(), {}
    except FAILURES as error:
        return instead, {"failed": reason(error)}


def reason(error: Exception) -> str:
    """One line for an error."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
