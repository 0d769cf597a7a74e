"""A flow from noise to pictures, led by a prefix of tokens."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

_FREQUENCIES = 16


class Residual(nn.Module):
    """A layer added to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU()
        )

    def forward(self, x: Float[Tensor, "b width"]) -> Float[Tensor, "b width"]:
        """The input and what the layer makes of it."""
        return x + self.layers(x)


class FlowDecoder(nn.Module):
    r"""Predicts the picture x from $x_t = (1 - t) x + t \epsilon$ and tokens.

    $x_t$ comes in weighted by $(1 - t) / ((1 - t)^2 + t^2)$, so that at t = 1, where it
    is nothing but noise, it is not seen at all: the prediction is the mean picture
    given the tokens.

    Args:
        pixels: Numbers in a picture.
        condition: Numbers in all tokens.
        width: Features inside.
        depth: Residual layers.
    """

    def __init__(self, pixels: int, condition: int, *, width: int, depth: int) -> None:
        super().__init__()
        inputs = pixels + condition + 2 * _FREQUENCIES
        self.inside = nn.Linear(inputs, width)
        self.layers = nn.Sequential(*(Residual(width) for _ in range(depth)))
        self.outside = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, pixels))

    def forward(
        self,
        noisy: Float[Tensor, "b pixels"],
        t: Float[Tensor, " b"],
        condition: Float[Tensor, "b condition"],
    ) -> Float[Tensor, "b pixels"]:
        """The expected picture."""
        weight = (1 - t) / ((1 - t).square() + t.square())
        parts = [weight[:, None] * noisy, condition, _waves(t)]
        return self.outside(self.layers(self.inside(torch.cat(parts, 1))))

    @torch.no_grad()
    def sample(
        self,
        noise: Float[Tensor, "b pixels"],
        condition: Float[Tensor, "b condition"],
        steps: int,
    ) -> Float[Tensor, "b pixels"]:
        r"""From t = 1 to 0 by Euler steps along $(x_t - \hat x) / t$."""
        state = noise
        for step in range(steps, 0, -1):
            t = torch.full((len(noise),), step / steps).to(noise)
            state = state + (self(state, t, condition) - state) / step
        return state


def _waves(t: Tensor) -> Tensor:
    """Sines and cosines of t at frequencies from 1 to 30."""
    exponents = torch.arange(_FREQUENCIES).to(t) / (_FREQUENCIES - 1)
    angles = t[:, None] * torch.exp(math.log(30) * exponents)
    return torch.cat([angles.sin(), angles.cos()], 1)
