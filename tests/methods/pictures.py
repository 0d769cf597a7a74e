"""Pictures of flat shapes, and attention between patches of like colour and place."""

import torch
from PIL import Image

from attnchain.capturing import TokenGrid
from attnchain.operators import AttentionTransition
from attnchain.vision import PictureAttention

PATCH = 8
SHAPES = """
aaaa....
aaaa....
aaaa..bb
......bb
cc....bb
cc......
"""
GREY = {".": 40, "a": 120, "b": 180, "c": 240}


def rows():
    return SHAPES.split()


def labels():
    """Shape of every patch, as a number of its letter."""
    letters = sorted({letter for row in rows() for letter in row})
    return torch.tensor([[letters.index(letter) for letter in row] for row in rows()])


def true_mask(letters):
    """The pixels of some shapes."""
    inside = torch.tensor([[letter in letters for letter in row] for row in rows()])
    return inside.repeat_interleave(PATCH, 0).repeat_interleave(PATCH, 1)


def flat_attention(*, contrast=9.0, closeness=2.0, heads=2):
    """Attention of a made-up model that sees colour well and place a little."""
    shape = labels()
    colour = torch.nn.functional.one_hot(shape.flatten()).float() * contrast
    place = torch.cartesian_prod(
        torch.linspace(0, 1, shape.shape[0]), torch.linspace(0, 1, shape.shape[1])
    )
    features = torch.cat([colour**0.5, closeness * place], 1)
    noise = 0.05 * torch.randn(heads, *features.shape)
    q = features + noise
    grey = torch.tensor([[GREY[letter] for letter in row] for row in rows()])
    pixels = grey.repeat_interleave(PATCH, 0).repeat_interleave(PATCH, 1)
    return PictureAttention(
        picture=Image.fromarray(pixels.byte().numpy()).convert("RGB"),
        grid=TokenGrid(*shape.shape),
        layers=(0,),
        heads=(AttentionTransition(q, q, scale=1.0),),
        class_rows=(),
        model_name="flat shapes",
        model_note="made up",
    )


def overlap(mask, truth):
    """Intersection over union."""
    return float((mask & truth).sum() / (mask | truth).sum())
