"""Where a result comes from: versions, weights and input."""

import hashlib
import platform
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import nn

PACKAGES = ("torch", "numpy", "scipy", "transformers", "timm", "diffusers")


def origin(model: nn.Module, given: bytes) -> dict[str, Any]:
    """Return versions and digests to write beside a result.

    Args:
        model: The model that was run.
        given: What it was given: a picture file's bytes, or a text's.

    Returns:
        Versions of Python and of what computes, and sha256 of weights and input. That
        of the weights is over names, types, shapes and numbers in the order of names,
        the same for any file they were read from.
    """
    return {
        "versions": versions(),
        "weights_sha256": weights_digest(model),
        "input_sha256": hashlib.sha256(given).hexdigest(),
    }


def weights_digest(model: nn.Module) -> str:
    """Return the sha256 of a model's tensors, whatever file they came from.

    Args:
        model: The model.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if not isinstance(tensor, torch.Tensor):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(flat.numpy().tobytes())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that compute, by name."""
    # The metadata of an installation for development can be those of an older version.
    own = import_module("attnchain").__version__
    found = {"python": platform.python_version(), "attnchain": own}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
