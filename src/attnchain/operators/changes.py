"""Tensors that chains read without a copy, and whether they were changed since."""

from typing import Any

import torch
from torch import Tensor

from attnchain.errors import ArgumentError


class Given:
    """Tensors a chain reads without a copy of its own, and the version of each.

    Torch counts the changes made to a tensor in place. Memory shared with NumPy is
    not watched.
    """

    def __init__(self, **tensors: Tensor | None) -> None:
        self._tensors = {name: t for name, t in tensors.items() if t is not None}
        self._versions = [_version(t) for t in self._tensors.values()]

    def check(self) -> None:
        """Raises ArgumentError where one was changed in place since."""
        for (name, tensor), version in zip(
            self._tensors.items(), self._versions, strict=True
        ):
            if _version(tensor) != version:
                message = (
                    f"{name} was changed in place after the chain was made of it; make "
                    f"the chain anew, or of a copy ({name}.clone())"
                )
                raise ArgumentError(message)

    def __reduce__(self) -> tuple[Any, ...]:
        return _given, (self._tensors,)


def _version(tensor: Tensor) -> int:
    """How often it was changed; inference tensors are copies of our own."""
    return 0 if tensor.is_inference() else tensor._version


def _given(tensors: dict[str, Tensor]) -> Given:
    return Given(**tensors)


def watchable(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of one made in inference mode: its changes do not count."""
    if not tensor.is_inference():
        return tensor
    with torch.inference_mode(False):
        return tensor.clone()
