"""Where `ranking`, `vision`, `text`, `guidance` and `methods` were before 0.2.

Every name still works from here, with a warning that says where it is now; this module
goes in 0.3.
"""

import warnings
from importlib import import_module
from typing import Any

_HOMES = {
    "ranking": ("TokenRank", "token_rank"),
    "vision": (
        "ClickSegmentation",
        "Clicks",
        "DEFAULT_LAYERS",
        "PictureAttention",
        "Segmentation",
        "read_attention",
        "segment",
    ),
    "text": (
        "TextAttention",
        "WordSegmentation",
        "read_diffusion",
        "segment_words",
        "text_attention",
    ),
    "guidance": ("AttentionGuidance", "Salience", "guide"),
    "methods": ("entropy_reduced", "refine_map", "segment_regions"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            message = f"attnchain.tasks.{name} is now attnchain.{home}.{name}"
            warnings.warn(message, DeprecationWarning, stacklevel=2)
            return getattr(import_module(f"attnchain.{home}"), name)
    raise AttributeError(f"module 'attnchain.tasks' has no attribute {name!r}")
