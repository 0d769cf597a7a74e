"""Whether the Triton kernels can be used here."""

# pyright: reportMissingTypeStubs=false

import warnings
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from attnchain.errors import MissingExtraError, NumericalWarning, ShapeError
from attnchain.operators.kernels import tiled
from attnchain.operators.kernels.prepared import Head, TiledHead

MOST_FEATURES = 256
"""Larger heads leave no room for a block in shared memory."""
_PROBE_ERROR = {torch.float32: 1e-4, torch.float64: 1e-12}


def check_fused(device: torch.device, features: int) -> None:
    """Raises where backend="triton" was asked for and cannot run."""
    if find_spec("triton") is None:
        message = 'backend="triton" needs the package triton: pip install triton'
        raise MissingExtraError(message)
    from attnchain.operators.kernels.triton_kernels import interpreting

    if device.type != "cuda" and not interpreting():
        message = (
            f'backend="triton" needs a CUDA device, but q is on {device}; use '
            '"dense" or "tiled" (or TRITON_INTERPRET=1, to debug the kernels)'
        )
        raise ShapeError(message)
    if features > MOST_FEATURES:
        message = (
            f'backend="triton" takes head dimensions up to {MOST_FEATURES}, but q has '
            f'{features}; use "tiled"'
        )
        raise ShapeError(message)


def prefers_fused(device: torch.device, dtype: torch.dtype, features: int) -> bool:
    """Whether backend="auto" takes the kernels: on CUDA, once they proved right."""
    cuda = device.type == "cuda" and find_spec("triton") is not None
    if not cuda or features > MOST_FEATURES:
        return False
    return _works(device, dtype, 1 << (features - 1).bit_length())


def fused_heads(
    scores: tuple[tiled.Scores, ...], q: Tensor, k: Tensor, scale: float
) -> tuple[Head, ...]:
    """Every chain ready for the kernels, which add a mask as it is.

    A mask that would take n x n memory to be lifted (numbers for keys, causal) is
    left to tiles.
    """
    from attnchain.operators.kernels.triton_kernels import FusedHead

    def prepared(scores: tiled.Scores, query: Tensor, key: Tensor) -> Head:
        mask, causal = scores.lifted_mask, scores.causal
        if mask is None and scores.mask is not None:
            return TiledHead.prepare(scores)
        return FusedHead.prepare(query, key, mask=mask, causal=causal, scale=scale)

    queries, keys = (x.detach().reshape(-1, *x.shape[-2:]) for x in (q, k))
    return tuple(map(prepared, scores, queries, keys))


@cache
def _works(device: torch.device, dtype: torch.dtype, features: int) -> bool:
    """Compiles the kernels for heads of this width; compares them on a small chain."""
    try:
        error = _probe_error(device, dtype, features)
        reason = f"their result is off by {error:.2g}"
    except torch.OutOfMemoryError:
        raise
    except _failures() as failure:
        error, reason = float("inf"), str(failure).partition("\n")[0]
    if error <= _PROBE_ERROR[dtype]:
        return True
    message = (
        f"the Triton kernels do not work on {device} in {dtype} for {features} "
        f"features ({reason}); using tiles"
    )
    warnings.warn(message, NumericalWarning, stacklevel=2)
    return False


def _probe_error(device: torch.device, dtype: torch.dtype, features: int) -> float:
    """Largest error of one vector and of as many as a launch takes, both sides."""
    from attnchain.operators.kernels.triton_kernels import FusedHead, most_columns

    like: dict[str, Any] = {"device": device, "dtype": dtype}
    query, key = torch.linspace(-1, 1, 2 * 40 * features, **like).view(2, 40, features)
    scale = features**-0.5
    scores = tiled.Scores(query * (scale * tiled.LOG2_E), key, None, causal=False)
    sums = tiled.row_sums(scores)
    head = FusedHead.prepare(query, key, mask=None, causal=False, scale=scale)
    worst = 0.0
    for count in (1, most_columns(dtype)):
        vectors = torch.linspace(0, 1, count * 40, **like).view(count, 40)
        off = (
            head.multiply(vectors, "push") - tiled.push(scores, sums, vectors),
            head.multiply(vectors, "pull") - tiled.pull(scores, sums, vectors),
        )
        worst = max(worst, *(float(part.abs().max()) for part in off))
    return worst


def _failures() -> tuple[type[Exception], ...]:
    """What kernels that cannot run raise; Triton's own errors are of no other kind."""
    usual = (RuntimeError, ValueError, TypeError, OSError, ImportError)
    try:
        from triton.errors import TritonError
    except ImportError:
        return usual
    return (TritonError, *usual)
