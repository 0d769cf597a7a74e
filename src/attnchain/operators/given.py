"""What a chain is made of: arguments in the form the operators keep."""

from typing import Any

import torch
from torch import Tensor

from attnchain.errors import ArgumentError, ShapeError

BatchIndex = int | slice | Tensor | tuple[int | slice | Tensor, ...]
"""What may stand in `transition[...]`: it indexes the batch dimensions only."""


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


def unit_mass(masses: Tensor) -> Tensor:
    """Masses divided by their sum in the last axis, in float64: a copy."""
    wide = masses.to(torch.float64)
    return watchable(wide / wide.sum(-1, keepdim=True))


def batch_select(tensor: Tensor, index: BatchIndex, core_axes: int) -> Tensor:
    """Indexes the leading batch axes of a tensor, keeping its last `core_axes`."""
    index = index if isinstance(index, tuple) else (index,)
    return tensor[(*index, ..., *(slice(None),) * core_axes)]


def computing_dtype(dtype: torch.dtype) -> torch.dtype:
    """Precision of the products for numbers of this dtype: at least float32."""
    return torch.promote_types(dtype, torch.float32)


def kept_states(keep: Any, n_states: int, name: str = "keep") -> Tensor:
    """A boolean mask or distinct indices as indices, once they name known states."""
    expected = (
        f"{name} must be a mask ({n_states},) or indices in 0..{n_states - 1}, each "
        "once and at least one"
    )
    try:
        states = torch.as_tensor(keep)
    except (TypeError, ValueError, RuntimeError) as error:
        message = f"{expected}, but is {type(keep).__name__}"
        raise ArgumentError(message) from error
    given = f"{states.dtype} of shape {tuple(states.shape)}"
    if states.dtype == torch.bool and states.shape == (n_states,):
        states = states.nonzero()[:, 0]
    numbers = states.dtype == torch.bool or states.dtype.is_floating_point
    if numbers or states.dtype.is_complex or states.ndim != 1:
        raise ShapeError(f"{expected}, but is {given}")
    inside = states.numel() > 0 and 0 <= int(states.min()) <= int(states.max())
    if not inside or int(states.max()) >= n_states:
        raise ArgumentError(f"{expected}, but is {given} and names none or others")
    if states.unique().numel() != states.numel():
        raise ArgumentError(f"{expected}, but is {given} and names one twice")
    return watchable(states.to(torch.int64, copy=True))
