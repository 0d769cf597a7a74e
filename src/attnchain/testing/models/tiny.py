"""A small model with random weights and the input to run it on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import nn

PICTURE = (2, 3, 32, 48)
TOKENS = (2, 7)
VOCABULARY = 50


@dataclass(frozen=True)
class TinyModel:
    """A model and its input.

    Attributes:
        model: The model, in evaluation mode.
        args: Positional input.
        kwargs: Input by keyword.
    """

    model: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def run(self, **kwargs: Any) -> Any:
        """Runs the model on its input, without gradients."""
        with torch.no_grad():
            return self.model(*self.args, **self.kwargs, **kwargs)

    @classmethod
    def of(cls, model: nn.Module, *args: Any, seed: int = 0, **kwargs: Any) -> Self:
        """Gives a model random weights large enough for attention to be uneven.

        Usual initial weights are so small that every attention is nearly uniform, and
        a test of attention would pass whatever was read.
        """
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                std = 1.5 * parameter[0].numel() ** -0.5
                nn.init.normal_(parameter, std=std, generator=generator)
        return cls(model.eval(), args, kwargs)


Builder = Callable[[], TinyModel]


def picture(shape: tuple[int, ...] = PICTURE, seed: int = 1) -> torch.Tensor:
    """Returns random pictures, or latents."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tokens(shape: tuple[int, ...] = TOKENS, seed: int = 2) -> torch.Tensor:
    """Returns random token numbers, special ones left out."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, shape, generator=generator)


def padding(shape: tuple[int, int] = TOKENS) -> torch.Tensor:
    """Returns an attention mask in which the second sequence ends two tokens early."""
    mask = torch.ones(shape, dtype=torch.long)
    mask[1, -2:] = 0
    return mask
