"""Vision transformers of the timm library, from safetensors of the hub or a folder."""

from pathlib import Path

import torch

from attnchain.errors import UnsupportedModelError
from attnchain.models.from_transformers import DAMAGE, square_patch
from attnchain.models.hub import model_folder, not_found
from attnchain.models.loaded import LoadedModel
from attnchain.optional import require


def load_timm(source: str, *, name: str) -> LoadedModel:
    """Load one of timm's vision transformers, for pictures of any size.

    Args:
        source: timm's name of the weights, or a local folder in timm's form.
        name: The name shown to users.

    Returns:
        The model on the CPU, in float32 and evaluation mode.

    Raises:
        ModelNotFoundError: timm does not know the name, or the hub is out of reach.
        UnsupportedModelError: The model is no plain vision transformer.
        MissingExtraError: timm is not installed or does not import.
    """
    timm = require("timm", extra="timm", feature=f"the model {name!r}")
    known = timm.models.get_pretrained_cfg(source)
    repository = getattr(known, "hf_hub_id", None) or f"timm/{source}"
    is_folder = Path(source).expanduser().is_dir()
    folder = model_folder(source if is_folder else repository, extra="timm")
    try:
        model = timm.create_model(
            f"local-dir:{folder}", pretrained=True, dynamic_img_size=True
        )
    except TypeError as error:
        raise UnsupportedModelError(
            f"{name!r} does not take pictures of any size ({error}); "
            "only plain vision transformers of timm are supported"
        ) from error
    except (*DAMAGE, AssertionError) as error:
        raise not_found(name, error) from error
    if not hasattr(model, "num_prefix_tokens"):
        raise UnsupportedModelError(
            f"{name!r} does not say how many tokens come before its patches; "
            "only plain vision transformers of timm are supported"
        )
    data = timm.data.resolve_model_data_config(model)
    return LoadedModel(
        name=name,
        note=f"Weights {folder if is_folder else repository}, loaded by timm.",
        model=model.eval().to(torch.float32),
        patch_size=square_patch(model.patch_embed.patch_size, name),
        prefix=model.num_prefix_tokens,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
    )
