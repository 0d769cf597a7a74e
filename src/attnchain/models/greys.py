"""Grey pictures of more than 8 bits: which value is black, and which is white."""

import warnings
from typing import TYPE_CHECKING

import numpy as np

from attnchain.errors import ImageError, PictureWarning

if TYPE_CHECKING:
    from PIL.Image import Image

_FEW_BITS = 14
_REMEDY = "say which values are black and white (value_range, or --range LOW,HIGH)"


def is_grey(picture: "Image") -> bool:
    """Whether the pixels are single numbers: 8, 16 or 32 bits, or floating point."""
    return picture.mode in {"L", "I", "F"} or picture.mode.startswith("I;16")


def to_8_bits(
    picture: "Image",
    name: str,
    value_range: tuple[float, float] | None,
    *,
    inverted: bool = False,
) -> "Image":
    """Scales grey values to 0..255; a transparent one becomes white.

    Without a range, 0 is black and 65535 is white; where no value needs more than 14
    bits, white is the largest value of as many bits as are used, 8 at least: cameras
    and microscopes store 10, 12 or 14 bits in files of 16. A `PictureWarning` says so.

    Args:
        picture: A grey picture.
        name: Of the picture, for messages.
        value_range: The values that are black and white.
        inverted: The file counts from white to black.

    Raises:
        ImageError: The values need a range, or it is not one.
    """
    from PIL import Image

    values = np.asarray(picture)
    low, high = _checked(value_range) if value_range else _guessed(values, name)
    if inverted:
        low, high = high, low
    if values.dtype == np.uint16:
        grey = _scaled(np.arange(65536), low, high)[values]
    else:
        rows = max(1, 2**22 // max(1, picture.width))
        parts = range(0, picture.height, rows)
        grey = np.concatenate([_scaled(values[i : i + rows], low, high) for i in parts])
    if (clear := picture.info.get("transparency")) is not None:
        grey[values == clear] = 255
    return Image.fromarray(grey)


def _checked(value_range: tuple[float, float]) -> tuple[float, float]:
    low, high = value_range
    if not (np.isfinite([low, high]).all() and low < high):
        message = f"a range needs two numbers LOW < HIGH, but is {low:g},{high:g}"
        raise ImageError(message)
    return low, high


def _guessed(values: np.ndarray, name: str) -> tuple[float, float]:
    if np.issubdtype(values.dtype, np.floating):
        raise ImageError(
            f"cannot tell the range of floating-point pixels in {name}: {_REMEDY}, or "
            "save the picture with 8 or 16 bits a channel first"
        )
    least, most = (int(values.min()), int(values.max())) if values.size else (0, 0)
    if least < 0 or most > 65535:
        raise ImageError(
            f"pixel values from {least} to {most} in {name} exceed 16 bits: {_REMEDY}, "
            "or save the picture with 8 or 16 bits a channel first"
        )
    bits = max(8, most.bit_length())
    if bits > _FEW_BITS or most == 0:
        return 0, 65535
    white = 2**bits - 1
    warnings.warn(
        f"{name} has grey values up to {most}, read as {bits} bits: 0 is black and "
        f"{white} white; if not, {_REMEDY}",
        PictureWarning,
        stacklevel=2,
    )
    return 0, white


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """255 at high and 0 at low, rounded; values beyond are clipped."""
    if (low, high) == (0, 65535):
        return ((values.astype(np.int64) * 255 + 32767) // 65535).astype(np.uint8)
    share = (values.astype(np.float64) - low) / (high - low)
    return (np.nan_to_num(share).clip(0, 1) * 255).round().astype(np.uint8)
