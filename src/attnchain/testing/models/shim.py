"""Lets a torchvision that was built for another torch be imported, without kernels."""

from types import ModuleType
from typing import Final

import torch

OPERATORS: Final = torch.library.Library("torchvision", "FRAGMENT")


def importable_torchvision() -> ModuleType:
    """Imports torchvision, after declaring the operators it asks for if need be.

    transformers, timm and open_clip import torchvision. A build for another torch
    fails at once, because its operators are unknown; declared without kernels they
    let the import pass, which is enough for models that do not call them.

    Returns:
        The torchvision module.
    """
    try:
        import torchvision
    except (RuntimeError, AttributeError):
        for name in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, name):
                OPERATORS.define(f"{name}(Tensor a, Tensor b, float t) -> Tensor")
        import torchvision
    return torchvision
