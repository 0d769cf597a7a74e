"""How much memory a stored matrix may take."""

import os
import warnings

import torch

from attnchain.errors import MaterializationWarning

_CEILING = 2 * 2**30


def memory_budget(device: torch.device) -> int:
    """Bytes a stored n x n operator may take: a quarter of what is free, <= 2 GiB.

    On CPU the environment variable ATTNCHAIN_MEMORY_BUDGET (bytes) overrides it.
    """
    override = os.environ.get("ATTNCHAIN_MEMORY_BUDGET")
    if override is not None:
        return int(override)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    elif "SC_AVPHYS_PAGES" in os.sysconf_names:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:
        free = 4 * _CEILING
    return min(_CEILING, free // 4)


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


def announce_storage(
    shape: torch.Size, dtype: torch.dtype, device: torch.device
) -> None:
    """Warns where matrices of this shape are about to be stored above the budget."""
    if not fits_budget(shape, dtype, device):
        size = shape.numel() * dtype.itemsize / 2**30
        warnings.warn(
            f"storing {tuple(shape)} takes {size:.1f} GiB; push and pull need no "
            "stored matrix",
            MaterializationWarning,
            stacklevel=3,
        )
