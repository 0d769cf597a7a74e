"""Attention that is kept as matrices: computed by hand, or asked for."""

from dataclasses import dataclass, field, replace
from typing import Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attnchain.capturing.records import AbstractRecord, Heads
from attnchain.errors import NotStochasticError
from attnchain.operators import AbstractTransition, DenseTransition

LARGEST_LOSS = 0.02
"""Rows computed in half precision are off by less."""
SMALLEST_LOOK = 1e-6
"""Attention to masked keys is less, whatever number stands for the mask."""


@dataclass(frozen=True, eq=False, repr=False)
class DenseRecord(AbstractRecord):
    """Attention kept as matrices, of every head or of their mean.

    Attributes:
        matrix: Probabilities `(pictures, heads, n, m)`; the mean over heads has one.
        tokens: Keys that are no padding, by the mask that the model was given; None
            where it was given none.
    """

    matrix: Float[Tensor, "pictures heads n m"]
    tokens: Bool[Tensor, "pictures m"] | None = field(default=None, kw_only=True)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.matrix.shape)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.matrix,)

    def _whole(self, heads: Heads, axes: tuple[str, ...]) -> AbstractTransition:
        return self._checked(self.probabilities(heads), axes)

    @property
    def live(self) -> Bool[Tensor, "pictures m"]:
        if self.tokens is not None and self._looks_at(self.tokens):
            return self.tokens
        seen = (self.matrix > 0).any(1)
        if self.shape[-1] == self.shape[-2]:
            seen = seen & ~_fully_masked(self.matrix, seen)[..., None]
        return seen.any(1)

    def _looks_at(self, tokens: Tensor) -> bool:
        """Whether these tokens look at none but each other: a mask of this sequence."""
        if self.shape[-1] != self.shape[-2]:
            return True
        outside = tokens[:, None, :, None] & ~tokens[:, None, None, :]
        return not bool((self.matrix > SMALLEST_LOOK).logical_and(outside).any())

    def _chain_of(
        self, picture: int, heads: Heads, tokens: Tensor
    ) -> AbstractTransition:
        matrix = self.probabilities(heads)[picture][..., tokens, :][..., tokens]
        return self._checked(matrix)

    def _checked(
        self, matrix: Tensor, axes: tuple[str, ...] | None = None
    ) -> DenseTransition:
        """Rows that sum to one, as a transition."""
        kept = matrix.detach().sum(-1)
        if float(kept.min()) < 1 - LARGEST_LOSS:
            message = (
                f"{self.site} is no chain: queries keep {float(kept.min()):.3g} to "
                f"{float(kept.max()):.3g} of their attention for the tokens, the rest "
                f"goes to a sink that is no token, or they are masked. Take "
                f".probabilities(); operators.normalize_rows makes them the chain of "
                f"what is kept"
            )
            raise NotStochasticError(message)
        return DenseTransition(matrix, axes=axes)

    def _with_keys(self, number: int) -> Self:
        tokens = None if self.tokens is None else self.tokens[:, :number]
        return replace(self, matrix=self.matrix[..., :number], tokens=tokens)

    def probabilities(self, heads: Heads = None) -> Tensor:
        self._check_heads(heads, self.matrix.shape[1])
        return self.matrix if heads is None else self.matrix[:, heads]


def _fully_masked(matrix: Tensor, seen: Tensor) -> Bool[Tensor, "pictures n"]:
    """Padding to the left of a causal text, computed by hand: rows with no key to see.

    With a mask of large numbers softmax spreads such a row over all keys evenly, later
    ones too, which no other row of a causal matrix sees.
    """
    even = torch.isclose(matrix.amax(-1), matrix.amin(-1), rtol=1e-4, atol=0).all(1)
    later = seen.triu(1).any(-1)
    causal = ~(later & ~even).any(-1, keepdim=True)
    return causal & even & later
