"""Which chains of a batch, and which states of a chain, are meant."""

# pyright: reportUnknownMemberType=false

from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from attnchain.errors import ArgumentError, ShapeError
from attnchain.operators.changes import watchable

BatchIndex = int | slice | Tensor | tuple[int | slice | Tensor, ...]
"""What may stand in `transition[...]`: it indexes the batch dimensions only."""


def batch_select(tensor: Tensor, index: BatchIndex, core_axes: int) -> Tensor:
    """Indexes the leading batch axes of a tensor, keeping its last `core_axes`."""
    index = index if isinstance(index, tuple) else (index,)
    return tensor[(*index, ..., *(slice(None),) * core_axes)]


def remaining(
    axes: tuple[str, ...] | None, index: BatchIndex
) -> tuple[str, ...] | None:
    """Names of the batch axes that indexing leaves; None where that is not clear."""
    parts = index if isinstance(index, tuple) else (index,)
    dropped = [isinstance(part, Integral) or _ndim(part) == 0 for part in parts]
    clear = sum(_ndim(part) is not None for part in parts) <= 1
    if axes is None or not clear or any((_ndim(part) or 0) > 1 for part in parts):
        return None
    kept = [name for name, drop in zip(axes, dropped, strict=False) if not drop]
    return (*kept, *axes[len(parts) :])


def _ndim(part: object) -> int | None:
    return part.ndim if isinstance(part, Tensor) else None


def kept_states(keep: Any, n_states: int, name: str = "keep") -> Tensor:
    """A boolean mask or distinct indices as indices, once they name known states.

    Args:
        keep: The mask `(n_states,)` or indices; anything else is an error.
        n_states: Number of states n.
        name: What the caller calls it.

    Returns:
        Indices of at least one state, int64.

    Raises:
        ArgumentError: No state is named, or one that does not exist, or one twice.
        ShapeError: Neither a mask over the states nor a row of whole numbers.
    """
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
