"""Picture files to RGB pixels, whatever their colour mode, or one line of error."""

import struct
import warnings
import zlib
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from attnchain.errors import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 178_956_970
"""Pictures with more pixels are refused unread; Pillow's own limit for a bomb."""

_DAMAGE = (
    OSError,
    SyntaxError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    RuntimeError,
    struct.error,
    zlib.error,
)


def read_picture(path: str | PathLike[str]) -> "Image":
    """Read a picture file as RGB, upright.

    The EXIF orientation is applied, transparency is laid on white, 16-bit grey is
    scaled to 8 bits, and of an animation the first frame is taken. The size is judged
    from the header, before any pixel is decoded.

    Args:
        path: A file in one of the formats named in `FORMATS`.

    Returns:
        A Pillow picture of mode RGB.

    Raises:
        ImageError: There is no such file, it is not a picture or is damaged, it is too
            large, or its pixel values have no defined range.

    Example:
        >>> read_picture("missing.png")
        Traceback (most recent call last):
        ...
        attnchain.errors.ImageError: no such file: missing.png
    """
    try:
        file = Path(path)
    except TypeError as error:
        message = f"expected the path of a picture file, but got {path!r}"
        raise ImageError(message) from error
    try:
        if file.is_dir():
            raise ImageError(f"expected a picture, but this is a folder: {file}")
        if file.exists() and not file.is_file():
            raise ImageError(f"expected a picture, but this is no plain file: {file}")
        with file.open("rb") as stream:
            return _decoded(stream, file)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageError(f"no such file: {file}") from error
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"the file cannot be read: {file} ({error})") from error


def _decoded(stream: BinaryIO, file: Path) -> "Image":
    """Decode an open file; the path is for messages."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not stream.read(1):
        raise ImageError(f"the picture file is empty: {file}")
    Image.init()
    known = [name for name in FORMATS if name in Image.OPEN]
    # Pillow's size warning becomes our error; its others concern metadata only.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(stream, formats=known) as source:
                _check_size(source.size, file)
                source.load()
                return to_rgb(ImageOps.exif_transpose(source))
        except ImageError:
            raise
        except Image.DecompressionBombError as error:
            raise ImageError(_too_large(f"more than {MAX_PIXELS:,}", file)) from error
        except UnidentifiedImageError as error:
            raise ImageError(
                f"not a picture, or not in a known format ({', '.join(known)}): {file}"
            ) from error
        except _DAMAGE as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ImageError(
                f"the picture is damaged or cut short: {file} ({reason})"
            ) from error


def to_rgb(picture: "Image") -> "Image":
    """Return a picture in mode RGB, transparency laid on white.

    Args:
        picture: A Pillow picture of any colour mode with a defined range.

    Returns:
        A new picture.

    Raises:
        ImageError: The pixels are 32-bit or floating-point numbers, whose range is not
            defined, or a colour space that Pillow does not convert.
    """
    from PIL import Image

    if picture.mode == "I" or picture.mode.startswith("I;16"):
        return _from_16_bits(picture)
    if picture.mode in {"F", "LAB"}:
        raise ImageError(
            f"cannot tell the range of {picture.mode!r} pixels; "
            "save the picture with 8 or 16 bits a channel first"
        )
    if picture.mode in {"RGBa", "La"}:
        picture = picture.convert(picture.mode.upper())
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    paper = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(paper, layer).convert("RGB")


def _from_16_bits(picture: "Image") -> "Image":
    """Scale 16-bit grey to 8 bits; a transparent grey value becomes white."""
    from PIL import Image

    values = np.asarray(picture).astype(np.int32)
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise ImageError(
            f"pixel values from {values.min()} to {values.max()} exceed 16 bits; "
            "save the picture with 8 or 16 bits a channel first"
        )
    grey = ((values * 255 + 32767) // 65535).astype(np.uint8)
    grey[values == picture.info.get("transparency")] = 255
    return Image.fromarray(grey).convert("RGB")


def _check_size(size: tuple[int, int], file: Path) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise ImageError(_too_large(f"{width} x {height}", file))


def _too_large(given: str, file: Path) -> str:
    return (
        f"the picture is too large: {file} has {given} pixels, at most "
        f"{MAX_PIXELS:,} are read; make it smaller first"
    )
