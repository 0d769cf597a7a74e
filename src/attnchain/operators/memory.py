"""How much memory a stored matrix may take."""

# pyright: reportUnknownMemberType=false

import os
import warnings
from typing import cast

import torch

from attnchain.errors import ArgumentError, MaterializationWarning
from attnchain.operators.kernels.tiled import COLUMNS, ROWS

_CEILING = 2 * 2**30


def memory_budget(device: torch.device) -> int:
    """Bytes that stored n x n matrices may take: a quarter of all memory, <= 2 GiB.

    The memory the machine (or GPU) has, not what is free at the moment: the same call
    takes the same path on a busy machine. ATTNCHAIN_MEMORY_BUDGET (bytes) overrides it.

    Raises:
        ArgumentError: The variable is no whole number of bytes.
    """
    override = os.environ.get("ATTNCHAIN_MEMORY_BUDGET")
    if override is not None:
        if not override.strip().isdecimal():
            message = (
                "ATTNCHAIN_MEMORY_BUDGET must be a whole number of bytes, but is "
                f"{override!r}"
            )
            raise ArgumentError(message)
        return int(override)
    if device.type == "cuda":
        total = cast("int", torch.cuda.get_device_properties(device).total_memory)
    elif "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:
        total = 4 * _CEILING
    return min(_CEILING, total // 4)


def fits_budget(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether matrices of this shape may be stored, by `memory_budget`.

    Args:
        shape: All axes, batch included.
        dtype: Precision of the entries.
        device: Where they would lie.

    Returns:
        True when their bytes are within the budget.

    Example:
        >>> import torch
        >>> fits_budget(torch.Size((10**6, 10**6)), torch.float32, torch.device("cpu"))
        False
    """
    return shape.numel() * dtype.itemsize <= memory_budget(device)


def fits_solving(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether matrices may be stored for a solver, by `memory_budget`.

    Counted twice: beside the stored one lies what it is made from, or its copy in
    the precision that solvers iterate with.
    """
    return fits_budget(torch.Size((2, *shape)), dtype, device)


def within_a_tile(shape: torch.Size) -> bool:
    """Whether matrices are no larger than the tile that any product needs."""
    return shape.numel() <= ROWS * COLUMNS


def announce_storage(
    shape: torch.Size, dtype: torch.dtype, device: torch.device
) -> None:
    """Warns where more than a tile is about to be stored above the budget.

    For use in a method `to_dense`, at whose caller the warning points.

    Args:
        shape: All axes, batch included.
        dtype: Precision of the entries.
        device: Where they will lie.

    Warns:
        MaterializationWarning: They exceed the memory budget.
    """
    if not within_a_tile(shape) and not fits_budget(shape, dtype, device):
        size = shape.numel() * dtype.itemsize / 2**30
        warnings.warn(
            f"storing {tuple(shape)} takes {size:.1f} GiB; push and pull need no "
            "stored matrix",
            MaterializationWarning,
            stacklevel=4,  # past the decorator of `to_dense`
        )
