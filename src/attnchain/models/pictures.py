"""Picture files to RGB pixels, whatever their colour mode, or one line of error."""

import re
import struct
import warnings
import zlib
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

from attnchain.errors import ImageError, PictureWarning, memory_ran_out
from attnchain.models.chunks import essential_chunks
from attnchain.models.greys import is_grey, to_8_bits

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
PICTURE_ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".png", ".bmp", ".webp", ".avif"),
    *(".tif", ".tiff", ".gif", ".ppm", ".pgm"),
)
"""Of the names of files that are pictures."""
MAX_PIXELS = 178_956_970
"""Pictures with more pixels are refused unread; Pillow's own limit for a bomb."""

_MOVING = ("AVIF", "GIF", "PNG", "WEBP")
_SUBFILE_TYPE, _PHOTOMETRIC = 254, 262
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


class _Wanted(NamedTuple):
    """The file, and how it is to be read."""

    file: Path
    value_range: tuple[float, float] | None
    max_pixels: int


def read_picture(
    path: str | PathLike[str],
    *,
    value_range: tuple[float, float] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> "Image":
    """Read a picture file as RGB, upright.

    The EXIF orientation is applied, transparency is laid on white, grey of more than
    8 bits is scaled to 8, see `attnchain.models.greys`, and of an animation the first
    frame is taken, of a TIFF the first page that is no thumbnail. The size is judged
    from the header, before any pixel is decoded.

    Args:
        path: A file in one of the formats named in `FORMATS`.
        value_range: The values of a grey picture that are black and white; by default
            those of its number of bits.
        max_pixels: A picture with more is refused unread.

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
            return _decoded(stream, _Wanted(file, value_range, max_pixels))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageError(f"no such file: {file}{_hint(file)}") from error
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"the file cannot be read: {file} ({error})") from error


def _hint(file: Path) -> str:
    """What to do about names that mean something else to other programs."""
    if str(file) == "-":
        return " (pictures are not read from standard input: save it to a file first)"
    if re.match(r"[A-Za-z][A-Za-z0-9+.]+:/", str(file)):
        return " (pictures are not fetched from the network: download it first)"
    return ""


def _decoded(stream: BinaryIO, wanted: _Wanted) -> "Image":
    """Decode an open file, or say in one line why not."""
    from PIL import Image, UnidentifiedImageError

    file = wanted.file
    if not stream.read(1):
        raise ImageError(f"the picture file is empty: {file}")
    Image.init()
    try:
        return _tried_twice(stream, wanted)
    except Image.DecompressionBombError as error:
        raise ImageError(_too_large(f"more than {MAX_PIXELS:,}", wanted)) from error
    except UnidentifiedImageError as error:
        known = ", ".join(_known())
        message = f"not a picture, or not in a known format ({known}): {file}"
        raise ImageError(message) from error
    except _DAMAGE as error:
        if isinstance(error, ImageError) or memory_ran_out(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        message = f"the picture is damaged or cut short: {file} ({reason})"
        raise ImageError(message) from error


def _tried_twice(stream: BinaryIO, wanted: _Wanted) -> "Image":
    """A PNG that Pillow refuses is read without what viewers may ignore."""
    try:
        return _opened(stream, wanted)
    except _DAMAGE as error:
        if isinstance(error, ImageError) or memory_ran_out(error):
            raise
        essential = essential_chunks(stream)
        if essential is None:
            raise
        return _opened(essential, wanted)


def _known() -> list[str]:
    from PIL import Image

    return [name for name in FORMATS if name in Image.OPEN]


def _opened(stream: BinaryIO, wanted: _Wanted) -> "Image":
    """The picture of a stream that Pillow accepts."""
    from PIL import Image, ImageOps

    # Pillow's size warning becomes our error; its others concern metadata only.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(stream, formats=_known()) as source:
            page, pages = _skip_thumbnails(source)
            moves = source.format in _MOVING and getattr(source, "is_animated", False)
            _check_size(source.size, wanted)
            source.load()
            bare = _without_empty_alpha(source)
            ImageOps.exif_transpose(bare, in_place=True)
            inverted = source.format == "TIFF" and _white_is_zero(source)
    name, value_range = str(wanted.file), wanted.value_range
    if pages > 1:
        message = f"{name} has {pages} pages; page {page}, {bare.size}, is read"
        warnings.warn(message, PictureWarning, stacklevel=5)
    elif moves:
        message = f"{name} is an animation; its first frame is read"
        warnings.warn(message, PictureWarning, stacklevel=5)
    return _to_rgb(bare, name, value_range, inverted=inverted)


def to_rgb(picture: "Image") -> "Image":
    """Return a picture in mode RGB, transparency laid on white.

    Args:
        picture: A Pillow picture of any colour mode with a defined range.

    Returns:
        A new picture, or the same where it is RGB without transparency.

    Raises:
        ImageError: The pixels are 32-bit or floating-point numbers, whose range is not
            defined, or a colour space that Pillow does not convert.
    """
    return _to_rgb(picture, "the picture", None, inverted=False)


def _to_rgb(
    picture: "Image",
    name: str,
    value_range: tuple[float, float] | None,
    *,
    inverted: bool,
) -> "Image":
    from PIL import Image

    if is_grey(picture) and (value_range or picture.mode != "L"):
        grey = to_8_bits(picture, name, value_range, inverted=inverted)
        return grey.convert("RGB")
    if value_range:
        message = (
            f"a range is for grey pictures, but {name} has pixels of mode "
            f"{picture.mode!r}; leave it out"
        )
        raise ImageError(message)
    if picture.mode == "LAB":
        raise ImageError(
            f"cannot tell the range of {picture.mode!r} pixels; "
            "save the picture with 8 or 16 bits a channel first"
        )
    if picture.mode in {"RGBa", "La"}:
        picture = picture.convert(picture.mode.upper())
    if not picture.has_transparency_data:
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    layer = picture.convert("RGBA")
    paper = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(paper, layer).convert("RGB")


def _skip_thumbnails(source: "Image") -> tuple[int, int]:
    """Goes to the first page of a TIFF that is not marked as a smaller copy.

    Returns:
        Its number, counted from 1, and that of all pages.
    """
    if source.format != "TIFF":
        return 1, 1
    pages = getattr(source, "n_frames", 1)
    for page in range(pages):
        source.seek(page)
        if not cast("Any", source).tag_v2.get(_SUBFILE_TYPE, 0) & 1:
            return page + 1, pages
    source.seek(0)
    return 1, pages


def _white_is_zero(source: "Image") -> bool:
    """Whether a TIFF of more than 8 bits counts from white, which Pillow overlooks."""
    return cast("Any", source).tag_v2.get(_PHOTOMETRIC) == 0


def _without_empty_alpha(source: "Image") -> "Image":
    """A BMP whose alpha is zero everywhere has none: those bytes are often unused."""
    with_alpha = source.format == "BMP" and source.mode == "RGBA"
    if with_alpha and source.getchannel("A").getextrema() == (0, 0):
        return source.convert("RGB")
    return source


def _check_size(size: tuple[int, int], wanted: _Wanted) -> None:
    width, height = size
    if width * height > wanted.max_pixels:
        raise ImageError(_too_large(f"{width} x {height}", wanted))


def _too_large(given: str, wanted: _Wanted) -> str:
    return (
        f"the picture is too large: {wanted.file} has {given} pixels, at most "
        f"{wanted.max_pixels:,} are read; make it smaller first"
    )
