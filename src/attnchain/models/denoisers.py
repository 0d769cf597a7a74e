"""A trained denoiser that draws in one step, and what goes into it."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnchain.checks import check_fraction, check_whole
from attnchain.models.packaged import WEIGHTS

NOISIEST, LEAST_NOISE = 80.0, 0.002
SPREAD = 0.5
"""Standard deviation of the height maps that the network was trained on."""
HIGHEST, FINE = 22.16864013671875, 0.1
"""Largest height in metres, and where the scale turns from linear to logarithmic."""
SIDE = 128


class OneStepDenoiser(nn.Module):
    r"""Consistency model around a U-Net of diffusers.

    $D(x, \sigma) = c_{skip}(\sigma)\, x + c_{out}(\sigma)\, F(c_{in}(\sigma)\, x)$,
    clipped to [-1, 1], with $c_{skip} = d^2 / ((\sigma - \sigma_0)^2 + d^2)$,
    $c_{out} = d\,(\sigma - \sigma_0) / \sqrt{\sigma^2 + d^2}$,
    $c_{in} = 1 / \sqrt{\sigma^2 + d^2}$, d = 0.5 and $\sigma_0$ = 0.002.

    Args:
        network: A `UNet2DModel` whose class embedding takes a number.

    Source:
        Song et al., Consistency Models, arXiv 2303.01469, appendix C.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        noisy: Float[Tensor, "batch 1 height width"],
        sigma: Float[Tensor, " batch"],
        difficulty: Float[Tensor, " batch"],
    ) -> Float[Tensor, "batch 1 height width"]:
        """Return the clean pictures that the noisy ones come from.

        Args:
            noisy: A picture in [-1, 1] and sigma times normal noise.
            sigma: The noise level, at least 0.002.
            difficulty: How rough the terrain is to be, from 0 to 1.
        """
        level = sigma[:, None, None, None]
        spread = (level**2 + SPREAD**2).sqrt()
        skip = SPREAD**2 / ((level - LEAST_NOISE) ** 2 + SPREAD**2)
        out = SPREAD * (level - LEAST_NOISE) / spread
        time = 250 * sigma.log()
        predicted = self.network(noisy / spread, time, class_labels=difficulty[:, None])
        return (skip * noisy + out * predicted.sample).clamp(-1, 1)


@dataclass(frozen=True, eq=False)
class LoadedDenoiser:
    """A denoiser in evaluation mode, and what goes into it.

    Attributes:
        name: The name it was loaded by.
        note: One sentence on what the weights are; show it beside results.
        model: The module; call it with what `inputs` returns.
    """

    name: str
    note: str
    model: nn.Module

    def inputs(
        self, difficulty: float = 0.5, *, count: int = 1, seed: int = 0
    ) -> dict[str, Tensor]:
        """Return pure noise and its level: what the model draws terrains from.

        Args:
            difficulty: How rough they are to be, from 0 to 1.
            count: How many.
            seed: Of the noise.

        Raises:
            ArgumentError: One of them is out of range.
        """
        check_fraction(difficulty, "difficulty", zero=True)
        check_whole(count, "count")
        check_whole(seed, "seed", least=0)
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(count, 1, SIDE, SIDE, generator=generator)
        device = next(self.model.parameters()).device
        return {
            "noisy": NOISIEST * noise.to(device),
            "sigma": torch.full((count,), NOISIEST, device=device),
            "difficulty": torch.full((count,), float(difficulty), device=device),
        }

    def heights(
        self, drawn: Float[Tensor, "batch 1 height width"]
    ) -> Float[Tensor, "batch height width"]:
        """Return what the model drew in metres: 0.1 sinh(u asinh(221.7)), u in [0, 1].

        Args:
            drawn: Its output.
        """
        unit = (drawn[:, 0] + 1) / 2
        return FINE * (unit * math.asinh(HIGHEST / FINE)).sinh()


def load_denoiser(folder: Path, *, name: str, note: str) -> LoadedDenoiser:
    """Load a converted denoiser from its folder.

    Args:
        folder: Holds config.json of a `UNet2DModel`, and safetensors.
        name: The name shown to users.
        note: The sentence shown with it.
    """
    from diffusers.models.unets.unet_2d import UNet2DModel
    from safetensors.torch import load_file

    config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    config.pop("model_type")
    network: Any = UNet2DModel(**config)
    width = network.time_embedding.linear_2.out_features
    network.class_embedding = nn.Sequential(
        nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width)
    )
    network.load_state_dict(load_file(folder / WEIGHTS))
    return LoadedDenoiser(name, note, OneStepDenoiser(network).eval())
