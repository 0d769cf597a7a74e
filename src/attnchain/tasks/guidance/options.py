"""Checks of single options: each says what it must be and what it is."""

import math
from numbers import Integral, Real
from typing import Any

from attnchain.errors import ShapeError


def check_number(value: Any, name: str) -> None:
    """Raises ShapeError unless the option is a finite number."""
    if not isinstance(value, Real) or not math.isfinite(value):
        raise ShapeError(f"{name} must be a finite number, but is {value!r}")


def check_whole(value: Any, name: str) -> None:
    """Raises ShapeError unless the option is a whole number of at least 1."""
    if not isinstance(value, Integral) or value < 1:
        raise ShapeError(f"{name} must be a whole number >= 1, but is {value!r}")
