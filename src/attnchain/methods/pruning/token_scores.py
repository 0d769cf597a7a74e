"""What a score is told about a layer, and what it answers."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LayerReading:
    """Attention and keys of one layer, in one run of the model.

    Attributes:
        attention: Probabilities `(pictures, heads, n, n)` over all n tokens.
        keys: Keys `(pictures, heads, n, d)`.
        prefix: Tokens before the patches (class, registers), which always stay.
    """

    attention: Float[Tensor, "pictures heads n n"]
    keys: Float[Tensor, "pictures heads n d"]
    prefix: int


class AbstractTokenScore(ABC):
    """Which patches of a picture stay: those of the largest scores.

    Example:
        >>> import torch
        >>> class KeyNormScore(AbstractTokenScore):
        ...     def of(self, reading):
        ...         return reading.keys.norm(dim=-1).mean(1)
        >>> keys = torch.tensor([9.0, 1.0, 3.0, 2.0])[None, None, :, None]
        >>> reading = LayerReading(torch.full((1, 1, 4, 4), 0.25), keys, prefix=1)
        >>> KeyNormScore().kept(reading, 2)
        tensor([[1, 2]])
    """

    @abstractmethod
    def of(self, reading: LayerReading) -> Float[Tensor, "pictures n"]:
        """Scores of all tokens, the prefix too.

        Args:
            reading: The layer.
        """

    def kept(self, reading: LayerReading, count: int) -> Int[Tensor, "pictures count"]:
        """Patches that stay, ascending; 0 is the first one after the prefix.

        Args:
            reading: The layer.
            count: How many stay of each picture. Among equal scores order decides.
        """
        return largest(self.of(reading)[:, reading.prefix :], count)


def largest(
    values: Float[Tensor, "pictures m"], count: int
) -> Int[Tensor, "pictures count"]:
    """Positions of the largest values of every row, ascending; the first of equals."""
    order = values.argsort(dim=-1, descending=True, stable=True)
    return order[:, :count].sort().values
