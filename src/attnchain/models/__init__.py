"""Vision transformers by name, and pictures as their pixels.

load: a model with its preprocessing and token layout.
LoadedModel: what `load` returns.
read_picture: a picture file as RGB, upright, or one clear line of error.
"""

from attnchain.models.loaded import LoadedModel
from attnchain.models.loading import load
from attnchain.models.pictures import read_picture, to_rgb

__all__ = [
    "LoadedModel",
    "load",
    "read_picture",
    "to_rgb",
]
