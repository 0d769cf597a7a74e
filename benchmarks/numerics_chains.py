"""Heads to measure with: real DINOv2-S heads where the model is cached, else random."""

from pathlib import Path

import torch

from attnchain import capture
from attnchain.errors import ChainError
from attnchain.models import load
from attnchain.models.pictures import read_picture

PICTURE = Path(__file__).parents[1] / "examples" / "astronaut.png"
PATCH = 14
LARGEST_PICTURE = 64


def patch_heads(rows):
    """Queries, keys, scale of all heads without the class token, and their origin."""
    n = rows * rows
    captured = _captured(rows) if rows <= LARGEST_PICTURE else None
    if captured is not None:
        q, k, scale = captured
        return q[:, 1:], k[:, 1:], scale, "DINOv2-S"
    return *random_heads(6, n), 64**-0.5, "random"


def random_heads(heads, n):
    """Clustered heads: slow modes, as trained attention has them."""
    generator = torch.Generator().manual_seed(0)
    centres = 1.5 * torch.randn(8, 64, generator=generator)
    groups = torch.randint(8, (n,), generator=generator)
    q = centres[groups] + torch.randn(heads, n, 64, generator=generator)
    k = centres[groups] + torch.randn(heads, n, 64, generator=generator)
    return q, k


def _captured(rows):
    try:
        model = load("dinov2-small-saliency")
    except ChainError:
        return None
    picture = read_picture(PICTURE)
    pixels = model.pixels(picture, size=PATCH * rows)
    with capture(model.model) as attention, torch.no_grad():
        model.model(pixels)
    layers = attention.select()
    q = torch.cat([layer.q[0] for layer in layers])
    k = torch.cat([layer.k[0] for layer in layers])
    return q, k, layers[0].scale
