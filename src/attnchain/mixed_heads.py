"""Heads of some layers, and what is asked of all of them together."""

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.files import AbstractResult
from attnchain.markov import mix, second_eigenvalue
from attnchain.operators import AbstractTransition, forward_backward, stored
from attnchain.plot import plot_heads

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class MixedHeads(AbstractResult):
    """A result that is read from heads; what is asked of them is solved for once.

    Attributes:
        heads: One transition for each layer, batch shape `(heads,)`.
        layers: Layer numbers, counted from 0.
        model_name: The model they were read from.
        model_note: What that model's weights are.
    """

    heads: tuple[AbstractTransition, ...]
    layers: tuple[int, ...]
    model_name: str
    model_note: str

    @cached_property
    def lambda2(self) -> Float[Tensor, "layers heads"]:
        """Modulus of the second eigenvalue of every head."""
        return torch.stack([second_eigenvalue(layer).modulus for layer in self.heads])

    @cached_property
    def chain(self) -> AbstractTransition:
        """All heads of all layers mixed, weighted by lambda_2; stored where it fits."""
        return stored(mix(self.heads, lambda2=list(self.lambda2)))

    @cached_property
    def out_and_back(self) -> AbstractTransition:
        """One step along `chain` and one back, see `forward_backward`."""
        return stored(forward_backward(self.chain))

    def facts(self) -> dict[str, Any]:
        return {
            "model": self.model_name,
            "model_note": self.model_note,
            "layers": self.layers,
            "lambda2": self.lambda2.tolist(),
        }

    def plot(self, *, ax: "Axes | None" = None) -> "Axes":
        """Draws |lambda_2| of every head, layers down, heads across.

        Args:
            ax: Matplotlib axes to draw into; new ones by default.

        Returns:
            The axes.
        """
        return plot_heads(self.lambda2, self.layers, ax=ax)
