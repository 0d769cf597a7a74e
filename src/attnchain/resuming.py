"""The file of a training that is taken up again where it was left."""

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from attnchain.errors import ArgumentError
from attnchain.files import write_whole

_UNREADABLE = (OSError, EOFError, RuntimeError, KeyError, pickle.UnpicklingError)


def save_state(file: Path, settings: dict[str, Any], state: dict[str, Any]) -> None:
    """Writes where a training stands; the file appears whole or not at all.

    Args:
        file: Its path.
        settings: What the training must be given to be taken up again.
        state: Numbers, tensors, and lists, tuples and dictionaries of them.
    """
    content = io.BytesIO()
    torch.save({"settings": settings, "state": state}, content)
    write_whole(file, content.getvalue())


def load_state(file: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The state that `save_state` wrote under these settings.

    Raises:
        ArgumentError: The file was made with others, or is none of a training.
    """
    try:
        whole = torch.load(file, weights_only=True)
        known, state = whole["settings"], whole["state"]
    except _UNREADABLE as error:
        message = f"{file} holds no training that can be taken up: {error}; remove it"
        raise ArgumentError(message) from error
    if known != settings:
        message = (
            f"{file} was made with other settings ({known}); give another checkpoint, "
            "or remove it"
        )
        raise ArgumentError(message)
    return state
