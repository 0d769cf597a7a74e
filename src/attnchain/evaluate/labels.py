"""Label pictures read by what they mean: palette, mode, and a data set's convention.

The same mask stored in another way is read alike, or refused with the values seen;
nothing is taken for labels that does not say which pixels are the object.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
from jaxtyping import Int

from attnchain.errors import DataSetError, ImageError

if TYPE_CHECKING:
    from PIL.Image import Image

VOID: Final = -1
"""Label of pixels that are not scored."""

Value = TypeVar("Value")
Labels = Int[np.ndarray, "height width"]
_SCALED: Final = {"L;2": 85, "L;4": 17}


@dataclass(frozen=True, eq=False)
class LabelPicture:
    """A label picture as stored.

    Attributes:
        values: Grey values, or indices of a palette that is not grey, `(height,
            width)`; of a picture in colour `(height, width, 3)`.
        indexed: Whether they are indices.
    """

    values: np.ndarray
    indexed: bool

    @property
    def brightness(self) -> Labels:
        """The values; of a picture in colour the largest channel."""
        return self.values if self.values.ndim == 2 else self.values.max(-1)

    def refused(self, expected: str) -> DataSetError:
        """The error for values that do not say what is labelled."""
        if self.values.ndim == 2:
            what = "palette indices" if self.indexed else "values"
            seen = [str(value) for value in np.unique(self.values)]
        else:
            what = "colours"
            colours = np.unique(self.values.reshape(-1, 3), axis=0)
            seen = [str(tuple(colour)) for colour in colours.tolist()]
        more = f" and {len(seen) - 8} more" if len(seen) > 8 else ""
        shown = ", ".join(seen[:8])
        return DataSetError(
            f"expected {expected}, but the {what} are {shown}{more}; save the labels "
            "with the expected values"
        )


Convention = Callable[[LabelPicture], Labels]


def read_labels(path: Path, convention: Convention) -> Labels:
    """Labels of a label picture, upright as its EXIF orientation says.

    Args:
        path: The file.
        convention: What the values mean.

    Raises:
        ImageError: The file is damaged.
        DataSetError: The values are not those of the convention, or the picture is
            partly transparent.
    """
    try:
        return convention(guarded(lambda: _decoded(path), path)).astype(np.int64)
    except DataSetError as error:
        raise DataSetError(f"the labels {path}: {error}") from error


def guarded(read: Callable[[], Value], path: Path) -> Value:
    """The result of a reader; what it raises on damaged files becomes ImageError."""
    try:
        return read()
    except DataSetError:
        raise
    except (OSError, SyntaxError, ValueError, TypeError, LookupError) as error:
        raise ImageError(f"the labels cannot be read: {path} ({error})") from error


def _decoded(path: Path) -> LabelPicture:
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        coding = image.tile[0][3] if image.tile else None
        turned = ImageOps.exif_transpose(image)
    picture = _stored(turned)
    scale = _SCALED.get(coding, 1) if isinstance(coding, str) else 1
    return LabelPicture(picture.values // scale, picture.indexed)


def _stored(image: "Image") -> LabelPicture:
    if image.mode == "P":
        return _of_palette(image)
    if image.mode in {"LA", "RGBA", "PA"}:
        image = _without_alpha(image)
    if image.mode not in {"1", "L", "I", "RGB"} and not image.mode.startswith("I;16"):
        message = (
            f"expected grey values, palette indices or RGB, but it is {image.mode}"
        )
        raise DataSetError(f"{message}; save it as grey with 8 bits")
    values = np.asarray(image).astype(np.int64)
    if values.ndim == 3 and (values == values[..., :1]).all():
        values = values[..., 0]
    return LabelPicture(values, indexed=False)


def _of_palette(image: "Image") -> LabelPicture:
    """Indices; where the whole palette is grey, the greys it stands for."""
    indices = np.asarray(image).astype(np.int64)
    palette = np.array(image.getpalette("RGB"), dtype=np.int64).reshape(-1, 3)
    if (palette == palette[:, :1]).all():
        return LabelPicture(palette[indices, 0], indexed=False)
    return LabelPicture(indices, indexed=True)


def _without_alpha(image: "Image") -> "Image":
    least = image.getchannel("A").getextrema()[0]
    if least != 255:
        raise DataSetError(
            "expected labels without transparency, but the alpha channel goes down to "
            f"{least}; save the mask as grey, 0 for the rest and 255 for the object"
        )
    return image.convert("L" if image.mode == "LA" else "RGB")


def bright_object(picture: LabelPicture) -> Labels:
    """The object is bright, the rest dark; soft edges are cut in the middle."""
    plain = _two_sided(picture)
    if plain is not None:
        return plain
    values = picture.brightness
    seen = np.unique(values)
    numbers = seen[seen < 255]
    numbered = 1 < len(numbers) <= 20 and np.array_equal(numbers, range(len(numbers)))
    if picture.indexed or numbered or not (0 <= seen[0] < 64 and 191 < seen[-1] <= 255):
        raise picture.refused("0 for the rest and one value, best 255, for the object")
    return (values > 127).astype(np.int64)


def object_beside(void: int | None) -> Convention:
    """A bright object, beside a value of pixels that are not scored."""

    def convention(picture: LabelPicture) -> Labels:
        if void is None:
            _check_third(picture)
            return bright_object(picture)
        unknown = picture.values == void
        if unknown.ndim == 3:
            raise picture.refused(f"grey values or indices, {void} among them")
        rest = LabelPicture(np.where(unknown, 0, picture.values), picture.indexed)
        return np.where(unknown, VOID, bright_object(rest))

    return convention


def _check_third(picture: LabelPicture) -> None:
    """A third value between dark and bright is no soft edge, which has many."""
    seen = np.unique(picture.brightness)
    if len(seen) == 3 and not picture.indexed and 64 <= seen[1] <= 191:
        expected = (
            f"0 for the rest and one value for the object, or to be told by void (on "
            f"the command line --void {seen[1]}) that {seen[1]} is not to be scored"
        )
        raise picture.refused(expected)


def trimap(picture: LabelPicture) -> Labels:
    """255 is the object, 128 unknown, 64 and 0 the rest."""
    values = picture.brightness
    seen = np.unique(values).tolist()
    if not picture.indexed and 255 in seen and set(seen) <= {0, 64, 128, 255}:
        return np.where(values == 128, VOID, (values > 128).astype(np.int64))
    plain = None if 128 in seen and not picture.indexed else _two_sided(picture)
    if plain is None:
        raise picture.refused("0 for the rest, 255 for the object and 128 for unknown")
    return plain


def numbered_objects(picture: LabelPicture) -> Labels:
    """Objects by number, 0 for the rest; or one bright object. 255 beside is rest."""
    values = picture.values
    seen = [value for value in np.unique(values).tolist() if value != 255]
    numbered = values.ndim == 2 and len(seen) > 1 and seen == [*range(len(seen))]
    if not numbered or (255 in values and not picture.indexed):
        return np.maximum(bright_object(picture), 0)
    return np.where(values == 255, 0, values)


def not_black(picture: LabelPicture) -> Labels:
    """All that is not black is the object."""
    values = picture.brightness
    if values.min() > 0 and values.min() != values.max():
        raise picture.refused("black for the rest and anything else for the object")
    return (values > 0).astype(np.int64)


def _two_sided(picture: LabelPicture) -> Labels | None:
    """The object, where the values can mean but one thing; else None.

    Values are 0 for the rest and one other for the object. Indices are 0 for the
    rest and other numbers for objects; 255 beside them is not scored.
    """
    values = picture.brightness
    seen = np.unique(values).tolist()
    if picture.indexed and 0 in seen:
        object_ = (values > 0).astype(np.int64)
        return np.where(values == 255, VOID, object_) if len(seen) > 2 else object_
    if (len(seen) == 2 and seen[0] == 0) or seen in ([0], [1], [255], [65535]):
        return (values > 0).astype(np.int64)
    return None


def class_numbers(
    picture: LabelPicture, *, count: int, unlabelled: int = 255
) -> Labels:
    """Numbers of classes in 0..count-1; 255, and `unlabelled`, are not scored."""
    values = picture.values
    known = ((values >= 0) & (values < count)) | (values == 255)
    if values.ndim == 3 or not known.all():
        raise picture.refused(f"class numbers in 0..{count - 1}, and 255 for void")
    return np.where((values == 255) | (values == unlabelled), VOID, values)
