"""Whether the Triton kernels can be used here."""

import os
import warnings
from functools import cache
from importlib.util import find_spec

import torch

from attnchain.errors import MissingExtraError, NumericalWarning, ShapeError
from attnchain.operators import tiles

_PROBE_ERROR = {torch.float32: 1e-4, torch.float64: 1e-12}


def check_fused(device: torch.device) -> None:
    """Raises where backend="triton" was asked for and cannot run."""
    if find_spec("triton") is None:
        message = 'backend="triton" needs the package triton: pip install triton'
        raise MissingExtraError(message)
    if device.type != "cuda" and not interpreting():
        message = (
            f'backend="triton" needs a CUDA device, but q is on {device}; use '
            '"dense" or "tiled" (or TRITON_INTERPRET=1, to debug the kernels)'
        )
        raise ShapeError(message)


def prefers_fused(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether backend="auto" takes the kernels: on CUDA, once they proved right."""
    cuda = device.type == "cuda" and find_spec("triton") is not None
    return cuda and _works(device, dtype)


def interpreting() -> bool:
    """Whether Triton runs its kernels in Python, for debugging."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def _works(device: torch.device, dtype: torch.dtype) -> bool:
    """Compiles the kernels once and compares them with tiles on a small chain."""
    from triton.errors import TritonError

    from attnchain.operators.triton_kernels import FusedHead

    like = {"device": device, "dtype": dtype}
    query, key = torch.linspace(-1, 1, 2 * 40 * 16, **like).view(2, 40, 16)
    scores = tiles.Scores(query * tiles.LOG2_E, key, None, causal=False)
    vector = torch.linspace(0, 1, 40, **like)[None]
    expected = tiles.push(scores, tiles.row_sums(scores), vector)
    try:
        head = FusedHead.prepare(query, key, mask=None, causal=False, scale=1.0)
        error = float((head.multiply(vector, "push") - expected).abs().max())
        reason = f"their result is off by {error:.2g}"
    except (TritonError, RuntimeError, ValueError, TypeError, OSError) as failure:
        error, reason = float("inf"), str(failure).partition("\n")[0]
    if not error <= _PROBE_ERROR[dtype]:
        message = (
            f"the Triton kernels do not work on {device} in {dtype} ({reason}); using "
            "tiles"
        )
        warnings.warn(message, NumericalWarning, stacklevel=2)
        return False
    return True
