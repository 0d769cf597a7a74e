"""Whether there is anything in a picture that patches could be told apart by."""

from typing import TYPE_CHECKING

import numpy as np

from attnchain.models import to_rgb

if TYPE_CHECKING:
    from PIL.Image import Image

_FEWEST, _MOST_PATCHES = 16, 1024
_SIDES = (4, 32)
_CHANCE = 4.0
_EQUAL = 1e-6


def nothing_in(picture: "Image", *, rows: int, columns: int) -> str | None:
    """Why the patches of a picture cannot be told apart; None where they can.

    A picture of one colour has nothing in it; neither has noise. It is taken for noise
    where the means of its patches, and the squares around them, differ no more
    between patches than the pixels inside a patch make likely: the ratio F of the two
    variances is 1 by chance, and some tens to thousands in a photograph.

    Args:
        picture: A Pillow picture.
        rows: Patches from top to bottom.
        columns: Patches from left to right.

    Returns:
        One sentence, or None.

    Sources:
        Fisher's analysis of variance in one direction; for squares Levene's test.
    """
    rgb = to_rgb(picture)
    if all(low == high for low, high in rgb.getextrema()):  # pyright: ignore
        return "The picture has one colour only: nothing in it can be told apart."
    side = max(_SIDES[0], min(rgb.width // columns, rgb.height // rows, _SIDES[1]))
    patches = _sampled(rgb, side)
    if len(patches) < _FEWEST:
        return None
    squares = (patches - patches.mean(1, keepdims=True)) ** 2
    if max(_ratio(patches), _ratio(squares)) >= _CHANCE:
        return None
    return (
        "The patches of the picture differ no more than those of noise do: nothing in "
        "it can be told apart."
    )


def _sampled(rgb: "Image", side: int) -> np.ndarray:
    """Some squares of pixels, evenly spread: (squares, pixels, 3)."""
    down, across = rgb.height // side, rgb.width // side
    step = max(1, int((down * across / _MOST_PATCHES) ** 0.5))
    boxes = [
        (x * side, y * side, (x + 1) * side, (y + 1) * side)
        for y in range(0, down, step)
        for x in range(0, across, step)
    ]
    squares = [np.asarray(rgb.crop(box), np.float64) for box in boxes]
    return np.reshape(squares, (len(boxes), side * side, 3))


def _ratio(values: np.ndarray) -> float:
    """The largest F of the channels: variance between groups over that within."""
    between = values.mean(1).var(0, ddof=1) * values.shape[1]
    within = values.var(1, ddof=1).mean(0)
    return float((between / np.maximum(within, _EQUAL)).max())
