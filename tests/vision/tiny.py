"""Small random models in the form `attnchain.models.load` returns, and pictures."""

import numpy as np
import torch
from PIL import Image
from torch import nn

from attnchain.models import LoadedModel
from attnchain.testing.models import vision

PATCH = 8


def loaded(tiny, *, prefix):
    return LoadedModel(
        name="tiny",
        note="Random weights.",
        model=tiny.model,
        patch_size=PATCH,
        prefix=prefix,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    )


def dinov2():
    return loaded(vision.dinov2(), prefix=1)


class Patches(nn.Module):
    """One layer of attention among the patches, in plain torch."""

    def __init__(self, *, causal=False, seed=0):
        super().__init__()
        self.causal = causal
        self.embed = nn.Conv2d(3, 16, PATCH, PATCH)
        self.queries_and_keys = nn.Linear(16, 32)
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3, generator=generator)

    def forward(self, pixels):
        tokens = self.embed(pixels).flatten(2).mT
        q, k = self.queries_and_keys(tokens).unflatten(-1, (2, 16)).unbind(-2)
        q, k = (x.unflatten(-1, (2, 8)).transpose(1, 2) for x in (q, k))
        return nn.functional.scaled_dot_product_attention(
            q, k, k, is_causal=self.causal
        )


def torch_only(**options):
    """A model without transformers: two heads, no class token."""
    return LoadedModel(
        name="torch only",
        note="Random weights.",
        model=Patches(**options).eval(),
        patch_size=PATCH,
        prefix=0,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    )


def picture(width=64, height=40, seed=0):
    """Coarse coloured noise with a red block in the middle."""
    rng = np.random.default_rng(seed)
    rows, columns = -(-height // 8), -(-width // 8)
    noise = rng.integers(0, 256, (rows, columns, 3), dtype=np.uint8)
    pixels = noise.repeat(8, 0).repeat(8, 1)[:height, :width]
    down, across = (
        slice(height // 4, 1 + height // 2),
        slice(width // 3, 1 + width // 2),
    )
    pixels[down, across] = (250, 10, 10)
    return Image.fromarray(pixels)
