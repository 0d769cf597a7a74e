"""Argument checks of all layers: each says what was expected and what came."""

import math
import sys
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from attnchain.errors import ArgumentError, NotStochasticError, ShapeError


def check_floating(tensor: Tensor, name: str) -> None:
    """Raises ArgumentError unless it is a tensor, ShapeError unless of real floats."""
    if not isinstance(tensor, Tensor):
        message = f"{name} must be a torch tensor, but is {type(tensor).__name__}"
        raise ArgumentError(message)
    if not tensor.is_floating_point():
        message = f"{name} must be a floating-point tensor, but has {tensor.dtype}"
        raise ShapeError(message)


def check_finite(tensor: Tensor, name: str) -> None:
    """Raises NotStochasticError where entries are infinite or not numbers."""
    finite = torch.isfinite(tensor)
    if not bool(finite.all()):
        bad = int((~finite).sum())
        place = torch.nonzero(~finite)[0].tolist()
        message = (
            f"{name} has {bad} entries that are infinite or not a number, the first "
            f"at {place}; look for an overflow in the model (half precision?) first"
        )
        raise NotStochasticError(message)


def check_rows(matrix: Tensor, sums: Tensor, tolerance: float) -> None:
    """Raises NotStochasticError unless entries are >= 0 and rows sum to one.

    Args:
        matrix: Transition matrices.
        sums: Their row sums in float64.
        tolerance: Largest deviation of a sum from one.
    """
    check_finite(matrix, "the transition matrix")
    smallest = float(matrix.min())
    deviation = (sums - 1).abs()
    worst = float(deviation.max())
    if smallest >= 0 and worst <= tolerance:
        return
    row = torch.unravel_index(deviation.argmax(), deviation.shape)
    row_index = tuple(int(i) for i in row)
    message = (
        "rows of a transition matrix must be >= 0 and sum to one within "
        f"{tolerance:g}; row {row_index} sums to {float(sums[row_index]):.6g} (off by "
        f"{worst:.2g}) and the smallest entry is {smallest:.3g}. If the entries are "
        "weights rather than probabilities, pass them through "
        "attnchain.operators.normalize_rows"
    )
    raise NotStochasticError(message)


def check_distribution(vector: Tensor, n_states: int, name: str) -> None:
    """Raises unless the last axis is a distribution over the given number of states."""
    check_floating(vector, name)
    if vector.ndim == 0 or vector.shape[-1] != n_states:
        message = (
            f"{name} must have {n_states} entries in its last axis, one for each "
            f"state, but has shape {tuple(vector.shape)}"
        )
        raise ShapeError(message)
    vector = vector.detach()
    check_finite(vector, name)
    total = vector.sum(-1, dtype=torch.float64)
    worst = float((total - 1).abs().max())
    tolerance = max(1e-6, 4 * math.sqrt(n_states) * torch.finfo(vector.dtype).eps)
    if float(vector.min()) < 0 or worst > tolerance:
        message = (
            f"{name} must be a distribution (entries >= 0, sum 1), but its smallest "
            f"entry is {float(vector.min()):.3g} and its sum is off by {worst:.3g}; "
            f"divide it by its sum"
        )
        raise NotStochasticError(message)


def check_fraction(value: Any, name: str, *, zero: bool = False) -> None:
    """Raises ArgumentError unless the number lies in (0, 1], or [0, 1] with `zero`."""
    real = isinstance(value, Real) and not isinstance(value, bool)
    number: Any = value if real else math.nan
    if not (0 <= number <= 1 if zero else 0 < number <= 1):
        interval = "[0, 1]" if zero else "(0, 1]"
        raise ArgumentError(f"{name} must lie in {interval}, but is {value!r}")


def check_count(value: Any, name: str, *, low: int, high: int, meaning: str) -> None:
    """Raises ArgumentError unless the argument is a whole number within both limits."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not (whole and low <= int(value) <= high):
        message = f"{name} must lie in {low}..{high} ({meaning}), but is {value!r}"
        raise ArgumentError(message)


def check_positive(value: Any, name: str) -> None:
    """Raises ArgumentError unless the argument is a finite number > 0."""
    real = isinstance(value, Real) and not isinstance(value, bool)
    number: Any = value if real else math.nan
    if not 0 < number <= sys.float_info.max:
        raise ArgumentError(f"{name} must be a number > 0, but is {value!r}")


def check_number(value: Any, name: str) -> None:
    """Raises ArgumentError unless the argument is a finite number."""
    real = isinstance(value, Real) and not isinstance(value, bool)
    if not real or not math.isfinite(value):
        raise ArgumentError(f"{name} must be a finite number, but is {value!r}")


def check_whole(value: Any, name: str, *, least: int = 1) -> None:
    """Raises ArgumentError unless the argument is a whole number, 1 or `least` up."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or int(value) < least:
        message = f"{name} must be a whole number >= {least}, but is {value!r}"
        raise ArgumentError(message)


def check_choice(value: Any, choices: tuple[str, ...], name: str) -> None:
    """Raises ArgumentError unless the argument is one of some words."""
    if not (isinstance(value, str) and value in choices):
        *most, last = map(repr, choices)
        words = f"{', '.join(most)} or {last}"
        raise ArgumentError(f"{name} must be {words}, but is {value!r}")
