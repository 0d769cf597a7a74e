"""Vision transformers of the transformers library, from a folder of safetensors."""

import inspect
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from attnchain.errors import (
    MissingExtraError,
    ModelNotFoundError,
    UnsupportedModelError,
    memory_ran_out,
)
from attnchain.models.hub import not_found
from attnchain.models.loaded import LoadedModel
from attnchain.models.quietly import quiet
from attnchain.optional import require

# Class that holds the picture tower, and its class and distillation tokens.
FAMILIES = {
    "clip": ("CLIPVisionModel", 1),
    "clip_vision_model": ("CLIPVisionModel", 1),
    "deit": ("DeiTModel", 2),
    "dinov2": ("Dinov2Model", 1),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", 1),
    "dinov3_vit": ("DINOv3ViTModel", 1),
    "siglip": ("SiglipVisionModel", 0),
    "siglip_vision_model": ("SiglipVisionModel", 0),
    "vit": ("ViTModel", 1),
}
DAMAGE = (
    OSError,
    ValueError,
    TypeError,
    RuntimeError,
    ImportError,
    LookupError,
    ArithmeticError,
    SafetensorError,
)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def load_folder(
    folder: Path, *, name: str, note: str, exact: bool = False
) -> LoadedModel:
    """Load a vision transformer in evaluation mode, with fused attention.

    Args:
        folder: Holds config.json and safetensors.
        name: The name shown to users.
        note: The sentence shown with it.
        exact: Whether tensors the model has no place for are an error too, as in a
            folder we wrote; a published one often carries heads and text towers.

    Returns:
        The model on the CPU, in float32.

    Raises:
        UnsupportedModelError: The token layout of this kind of model is not known.
        ModelNotFoundError: The files are damaged, or weights are missing.
        MissingExtraError: transformers is absent, or cannot be used in this Python.
    """
    kind = read_config(folder).get("model_type")
    if kind not in FAMILIES:
        raise UnsupportedModelError(
            f"the token layout of {name!r} (model_type {kind!r}) is not known; known "
            f"are {', '.join(FAMILIES)}, and timm's vision transformers by 'timm/NAME'"
        )
    class_name, special = FAMILIES[kind]
    model = with_weights(folder, class_name, name=name, exact=exact)
    if "interpolate_pos_encoding" in inspect.signature(model.forward).parameters:
        model.register_forward_pre_hook(_interpolate, with_kwargs=True)
    mean, std = _normalisation(folder)
    config: Any = model.config
    return LoadedModel(
        name=name,
        note=note,
        model=model,
        patch_size=square_patch(config.patch_size, name),
        prefix=special + getattr(config, "num_register_tokens", 0),
        mean=mean,
        std=std,
    )


def with_weights(
    folder: Path, class_name: str, *, name: str, exact: bool = False
) -> nn.Module:
    """Return a model of transformers with its weights, for evaluation.

    Args:
        folder: Holds config.json and safetensors.
        class_name: Its class in transformers.
        name: The name shown to users.
        exact: Whether tensors the model has no place for are an error too.

    Raises:
        ModelNotFoundError: The files are damaged, or weights are missing.
        MissingExtraError: transformers is absent, or cannot be used in this Python.
    """
    feature = f"the model {name!r}"
    if sys.flags.optimize > 1:
        raise MissingExtraError(
            f"{feature} needs transformers, which reads its own docstrings, and this "
            "Python leaves them out: run it without -OO or PYTHONOPTIMIZE=2"
        )
    transformers = require("transformers", extra="transformers", feature=feature)
    model, info = _weights(transformers, class_name, folder, name)
    wrong = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    if wrong := wrong.union(info["unexpected_keys"] if exact else ()):
        raise ModelNotFoundError(
            f"the weights of {name!r} do not fit the model: {len(wrong)} missing, "
            f"unexpected or of another shape, for example {min(wrong)}"
        )
    return model.eval()


def read_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of a model folder."""
    return read_settings(folder / "config.json")


def square_patch(size: int | tuple[int, int] | list[int], name: str) -> int:
    """Return the side of a patch that must be square."""
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise UnsupportedModelError(
            f"the patches of {name!r} are not square: {size}; only square patches "
            "are supported"
        )
    return sides.pop()


def _weights(
    transformers: ModuleType, class_name: str, folder: Path, name: str
) -> tuple[nn.Module, Mapping[str, Any]]:
    """Load by from_pretrained, so that its renaming of old tensor names applies."""
    from huggingface_hub.errors import StrictDataclassError

    with quiet(transformers.utils.logging):
        try:
            kind = getattr(transformers, class_name)
            pooled = "add_pooling_layer" in inspect.signature(kind).parameters
            return kind.from_pretrained(
                folder,
                attn_implementation="sdpa",
                use_safetensors=True,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported by load_folder
                **({"add_pooling_layer": False} if pooled else {}),
            )
        except (*DAMAGE, StrictDataclassError) as error:
            if memory_ran_out(error):
                raise
            raise not_found(name, error) from error


def _interpolate(
    _model: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Ask models with a fixed position table to fit it to the picture's grid."""
    return arguments, {"interpolate_pos_encoding": True, **named}


def _normalisation(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Read channel means and deviations; ImageNet's where the folder gives none."""
    settings: dict[str, Any] = {}
    if (file := folder / "preprocessor_config.json").is_file():
        settings = read_settings(file)
    elif (file := folder / "processor_config.json").is_file():
        settings = read_settings(file).get("image_processor", {})
    mean = settings.get("image_mean") or IMAGENET[0]
    std = settings.get("image_std") or IMAGENET[1]
    return tuple(mean), tuple(std)


def read_settings(file: Path) -> dict[str, Any]:
    """Return what a JSON file of a model folder holds."""
    try:
        settings = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(f"cannot read {file} ({error})") from error
    if not isinstance(settings, dict):
        raise ModelNotFoundError(f"{file} holds no settings; fetch the model again")
    return settings
