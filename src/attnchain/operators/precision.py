"""The precision chains are computed in, which autocast must not lower."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from attnchain.operators.changes import watchable

Arguments = ParamSpec("Arguments")
Value = TypeVar("Value")

_AUTOCAST = ("cpu", "cuda", "mps", "xpu")


def full_precision(
    function: Callable[Arguments, Value],
) -> Callable[Arguments, Value]:
    """The function with autocast off, which would halve the precision of products.

    Args:
        function: What multiplies.

    Returns:
        The same function, for use as a decorator.
    """

    @wraps(function)
    def precise(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Value:
        casting = [kind for kind in _AUTOCAST if torch.is_autocast_enabled(kind)]
        if not casting:
            return function(*args, **kwargs)
        with ExitStack() as stack:
            for kind in casting:
                stack.enter_context(torch.autocast(kind, enabled=False))
            return function(*args, **kwargs)

    return precise


def computing_dtype(dtype: torch.dtype) -> torch.dtype:
    """Precision of the products for numbers of this dtype: at least float32."""
    return torch.promote_types(dtype, torch.float32)


def unit_mass(masses: Tensor) -> Tensor:
    """Masses divided by their sum in the last axis, in float64: a copy."""
    wide = masses.to(torch.float64)
    return watchable(wide / wide.sum(-1, keepdim=True))
