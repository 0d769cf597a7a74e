"""Where the layers of a vision transformer are, by an explicit table."""

from collections.abc import Callable
from typing import Any

from torch import nn

from attnchain.errors import UnsupportedModelError

Prefix = Callable[[nn.Module, Any], int | None]
"""Tokens before the patches, of a model and a layer of it; None: not of pictures."""


def _tokens(count: int) -> Prefix:
    return lambda _model, _layer: count


def _registers(_model: nn.Module, layer: Any) -> int:
    return 1 + layer.attention.config.num_register_tokens


def _of_pictures(count: int) -> Prefix:
    """CLIP and SigLIP have the same layers for text."""

    def prefix(_model: nn.Module, layer: Any) -> int | None:
        return count if hasattr(layer.self_attn.config, "patch_size") else None

    return prefix


def _timm(model: nn.Module, _layer: Any) -> int | None:
    owners = (m for m in model.modules() if hasattr(m, "num_prefix_tokens"))
    return getattr(next(owners, None), "num_prefix_tokens", None)


PREFIXES: dict[str, Prefix] = {
    "transformers.ViTLayer": _tokens(1),
    "transformers.DeiTLayer": _tokens(2),
    "transformers.Dinov2Layer": _tokens(1),
    "transformers.Dinov2WithRegistersLayer": _registers,
    "transformers.CLIPEncoderLayer": _of_pictures(1),
    "transformers.SiglipEncoderLayer": _of_pictures(0),
    "timm.Block": _timm,
}
ON_A_GRID = ("Backbone", "ForMaskedImageModeling", "ForDepthEstimation")
"""Ends of names of models that need every patch in its place."""


def find_layers(model: nn.Module) -> tuple[list[nn.Module], int]:
    """The layers of a model's one vision tower, and its tokens before the patches.

    Args:
        model: The module.

    Raises:
        UnsupportedModelError: There is no such tower, or several, or the model lays
            its tokens back on the grid.
    """
    towers = []
    for module in model.modules():
        if type(module).__name__.endswith(ON_A_GRID):
            message = (
                f"{type(module).__name__} lays its tokens back on the grid of patches, "
                f"which has holes once some are dropped; prune a model that does not"
            )
            raise UnsupportedModelError(message)
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module):
            prefix = _prefix(model, module)
            if prefix is not None:
                towers.append((list(module), prefix))
    if len(towers) != 1:
        message = (
            f"{type(model).__name__} has {len(towers)} stacks of layers that can be "
            f"pruned, but must have one, of {', '.join(PREFIXES)}; give the vision "
            f"tower of a model that has several"
        )
        raise UnsupportedModelError(message)
    return towers[0]


def _prefix(model: nn.Module, stack: nn.Module) -> int | None:
    """Tokens before the patches of a stack whose layers are all of one known class."""
    classes = {type(layer) for layer in stack.children()}
    layer_class = classes.pop()
    family = f"{layer_class.__module__.partition('.')[0]}.{layer_class.__name__}"
    if classes or family not in PREFIXES:
        return None
    return PREFIXES[family](model, next(stack.children()))
