"""Nested drop-out: which tokens are kept, and what each prefix explains."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attnchain.checks import check_count, check_fraction, check_number, check_whole
from attnchain.errors import ArgumentError, ShapeError


def draw_keeps(
    rows: int,
    tokens: int,
    generator: torch.Generator,
    *,
    nested: bool = True,
    drop: float = 0.0,
) -> Int[Tensor, " rows"]:
    """How many leading tokens to keep of each picture, uniform in 1..tokens.

    Args:
        rows: Number of pictures.
        tokens: Number of tokens of each, K.
        generator: Where chance comes from.
        nested: False always keeps all: a model without an order.
        drop: Probability that none is kept, so that the empty prefix is learned too.

    Raises:
        ArgumentError: A number is out of range.
    """
    check_whole(rows, "rows")
    check_whole(tokens, "tokens")
    check_number(drop, "drop")
    check_fraction(drop, "drop", zero=True)
    keeps = torch.randint(1, tokens + 1, (rows,), generator=generator)
    if not nested:
        keeps = torch.full_like(keeps, tokens)
    return torch.where(torch.rand(rows, generator=generator) < drop, 0, keeps)


def keep_prefix(
    tokens: Float[Tensor, "b K d"],
    keep: int | Int[Tensor, " b"],
    null: Float[Tensor, "K d"],
) -> Float[Tensor, "b K d"]:
    """The first `keep` tokens; every later slot holds that slot's null vector.

    Args:
        tokens: All tokens.
        keep: How many to keep, 0 to K: one number, or one for each picture.
        null: A vector for each slot.

    Raises:
        ArgumentError: More tokens are to be kept than there are.
        ShapeError: Null vectors, keeps and tokens do not fit each other.

    Example:
        >>> tokens = torch.tensor([[[1.0], [2.0], [3.0]]])
        >>> keep_prefix(tokens, 2, torch.tensor([[7.0], [8.0], [9.0]]))[0, :, 0]
        tensor([1., 2., 9.])
    """
    if tokens.ndim != 3 or null.shape != tokens.shape[1:]:
        message = (
            f"tokens must be (pictures, K, channels) and null (K, channels), but are "
            f"{tuple(tokens.shape)} and {tuple(null.shape)}"
        )
        raise ShapeError(message)
    count = tokens.shape[1]
    if isinstance(keep, Tensor):
        if keep.shape != tokens.shape[:1] or keep.is_floating_point():
            message = (
                f"keep must hold a whole number for each of {len(tokens)} pictures, "
                f"but has {keep.dtype} of shape {tuple(keep.shape)}"
            )
            raise ShapeError(message)
        for one in (int(keep.min()), int(keep.max())) if keep.numel() else ():
            check_count(one, "keep", low=0, high=count, meaning="number of tokens")
        limits = keep[:, None, None]
    else:
        check_count(keep, "keep", low=0, high=count, meaning="number of tokens")
        limits = torch.tensor(keep)
    kept = torch.arange(count, device=tokens.device)[:, None] < limits.to(tokens.device)
    return torch.where(kept, tokens, null)


def explained_variance(
    losses: Sequence[float] | Float[Tensor, " K+1"],
) -> Float[Tensor, " K+1"]:
    r"""$EV(k) = (L(0) - L(k)) / (L(0) - L(K))$: what the first k tokens explain.

    Args:
        losses: L(0), ..., L(K): mean loss given no token, one token, ..., all of them.

    Returns:
        Float64; 0 for no token, 1 for all. A prefix that is worse than none gives a
        number below 0, one that is better than all a number above 1.

    Raises:
        ArgumentError: Fewer than two losses, one that is not finite, or all tokens
            together do not lower the loss.

    Example:
        >>> explained_variance([8.0, 4.0, 3.0])
        tensor([0.0000, 0.8000, 1.0000], dtype=torch.float64)
    """
    values = torch.as_tensor(losses, dtype=torch.float64).detach()
    if values.ndim != 1 or len(values) < 2 or not bool(values.isfinite().all()):
        message = (
            "losses must be finite numbers, one for each prefix from none to all "
            f"tokens, but are {losses!r}"
        )
        raise ArgumentError(message)
    gained = values[0] - values[-1]
    if not float(gained) > 0:
        message = (
            f"all tokens together must lower the loss, but it goes from "
            f"{float(values[0]):.4g} to {float(values[-1]):.4g}; train longer"
        )
        raise ArgumentError(message)
    return (values[0] - values) / gained
