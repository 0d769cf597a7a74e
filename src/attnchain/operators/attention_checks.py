"""What attention chains are made of: checks of queries, keys, masks and scores."""

from typing import Any

import torch
from torch import Tensor

from attnchain.checks import check_finite, check_floating
from attnchain.errors import ArgumentError, NotStochasticError, ShapeError
from attnchain.operators.changes import watchable


def check_queries_and_keys(q: Tensor, k: Tensor) -> None:
    """Raises unless both are finite and the queries are of the keys' tokens."""
    check_floating(q, "q")
    check_floating(k, "k")
    if q.shape != k.shape or q.ndim < 2 or 0 in q.shape:
        message = (
            "q and k must have one shape (*batch, n, d) with at least one state, but "
            f"have {tuple(q.shape)} and {tuple(k.shape)}. Cross-attention (different "
            "n) is not a chain; for grouped-query attention repeat the keys first"
        )
        raise ShapeError(message)
    if q.device != k.device:
        raise ShapeError(f"q is on {q.device}, but k is on {k.device}")
    check_finite(q.detach(), "q")
    check_finite(k.detach(), "k")


def checked_mask(mask: Any, q: Tensor) -> Tensor | None:
    """The mask with at least two axes, once it is known to broadcast to the scores."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor):
        message = f"mask must be a torch tensor, but is {type(mask).__name__}"
        raise ArgumentError(message)
    shape = torch.Size((*q.shape[:-1], q.shape[-2]))
    mask = mask[None, :] if mask.ndim == 1 else mask
    n = shape[-1]
    rows, columns = mask.shape[-2:] if mask.ndim >= 2 else (0, 0)
    fits = rows in (1, n) and columns == n and mask.ndim <= len(shape)
    batch = zip(mask.shape[-3::-1], shape[-3::-1], strict=False)
    if not fits or any(have not in (1, want) for have, want in batch):
        message = f"mask {tuple(mask.shape)} does not broadcast to {tuple(shape)}"
        raise ShapeError(message)
    if mask.dtype != torch.bool and not mask.is_floating_point():
        message = f"mask must be boolean or floating point, but is {mask.dtype}"
        raise ShapeError(message)
    if mask.requires_grad:
        message = "gradients in the mask would need n x n memory; detach it"
        raise ArgumentError(message)
    if mask.device != q.device:
        raise ShapeError(f"mask is on {mask.device}, but q is on {q.device}")
    return watchable(mask)


def check_tops(top: Tensor, place: tuple[int, ...]) -> None:
    """Names the first row whose largest score is not finite."""
    if bool(torch.isfinite(top).all()):
        return
    row = int(torch.nonzero(~torch.isfinite(top))[0])
    where = f"row {row} of chain {place}" if place else f"row {row}"
    if bool(torch.isneginf(top[row])):
        message = (
            f"{where} is fully masked: its state can go nowhere. Drop masked tokens "
            "with `restrict` instead of masking them"
        )
    else:
        message = (
            f"{where} has scores that overflow {top.dtype} or are not numbers (in the "
            "mask?); float64 holds larger ones"
        )
    raise NotStochasticError(message)
