"""Frames of a video: a folder of pictures in the order of their names, or a file."""

import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from attnchain.checks import check_whole
from attnchain.errors import ImageError, PictureWarning
from attnchain.models.pictures import (
    MAX_PIXELS,
    PICTURE_ENDINGS,
    read_picture,
    to_rgb,
)
from attnchain.optional import require
from attnchain.signing import signed_for

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Frame:
    """One frame.

    Attributes:
        name: What its results are called: its file's name without the ending, or that
            of the video with the frame's number, from 0.
        source: The file.
        read: Gives the picture, or raises ImageError.
    """

    name: str
    source: Path
    read: "Callable[[], Image]"


def read_frames(path: Path, *, every: int = 1) -> Iterator[Frame]:
    """The frames of a video, one by one.

    In a folder the picture files count, in the order of their names with numbers read
    as numbers (`2.png` before `10.png`); hidden files and what attnchain wrote itself
    are left out. Animations (GIF, PNG, WebP, AVIF) are read by Pillow, any other file
    by PyAV.

    Args:
        path: A folder of pictures, or a video file.
        every: Take every so many frames, from the first on.

    Yields:
        `Frame`; a picture is read when it is asked for.

    Raises:
        ImageError: There is no such file or folder, no picture in it, or the video
            cannot be decoded (further).
        MissingExtraError: A video file needs the package av.
        ArgumentError: `every` is no whole number above 0.
    """
    check_whole(every, "every")
    if path.is_dir():
        files = _pictures(path)[::every]
        return (Frame(f.stem, f, partial(read_picture, f)) for f in files)
    if not path.is_file():
        raise ImageError(f"no such video, or folder of frames: {path}")
    if path.suffix.lower() in PICTURE_ENDINGS:
        return _animated(path, every)
    av = require("av", extra="video", feature="reading a video file")
    return _decoded(path, every, av)


def _pictures(folder: Path) -> list[Path]:
    try:
        entries = sorted(folder.iterdir(), key=_in_order)
    except OSError as error:
        raise ImageError(f"{folder} cannot be read ({error.strerror})") from error
    files = [
        file
        for file in entries
        if file.suffix.lower() in PICTURE_ENDINGS and file.name[0] != "."
    ]
    found = [file for file in files if file.is_file() and signed_for(file) is None]
    if not found:
        raise ImageError(f"the folder {folder} has no picture to take for a frame")
    return found


def _in_order(file: Path) -> tuple[list[Any], str]:
    """Letters by letters, numbers by their value."""
    parts = re.split(r"([0-9]+)", file.name)
    return [int(p) if i % 2 else p for i, p in enumerate(parts)], file.name


def _animated(path: Path, every: int) -> Iterator[Frame]:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PictureWarning)
        read_picture(path)
    with Image.open(path) as film:
        if not getattr(film, "is_animated", False):
            message = (
                f"{path} is one picture: give a video, or the folder of its frames"
            )
            raise ImageError(message)
    return _turned_over(path, every)


def _turned_over(path: Path, every: int) -> Iterator[Frame]:
    """The frames of an animation, each laid over those before it."""
    from PIL import Image

    number = -1
    try:
        with Image.open(path) as film:
            for number in range(cast("Any", film).n_frames):
                film.seek(number)
                if number % every == 0:
                    name = f"{path.stem}-{number:05d}"
                    yield Frame(name, path, partial(to_rgb, film.copy()))
    except (OSError, EOFError, SyntaxError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        message = f"{path} cannot be decoded after {max(number, 0)} frames ({reason})"
        raise ImageError(message) from error


def _decoded(path: Path, every: int, av: Any) -> Iterator[Frame]:
    number = -1
    try:
        with av.open(str(path)) as video:
            if not video.streams.video:
                raise ImageError(f"{path} holds no pictures, only sound or text")
            for number, frame in enumerate(video.decode(video=0)):
                if number % every == 0:
                    name = f"{path.stem}-{number:05d}"
                    yield Frame(name, path, partial(_upright, frame, path))
    except av.FFmpegError as error:
        reason = error.strerror or type(error).__name__
        where = f"after {number + 1} frames" if number >= 0 else "at all"
        message = f"{path} cannot be decoded {where} ({reason})"
        raise ImageError(message) from error
    if number < 0:
        raise ImageError(f"{path} holds no frame")


def _upright(frame: Any, path: Path) -> "Image":
    """The picture as it is to be shown."""
    if frame.width * frame.height > MAX_PIXELS:
        message = (
            f"the frames of {path} are too large: {frame.width} x {frame.height} "
            f"pixels, at most {MAX_PIXELS:,} are read"
        )
        raise ImageError(message)
    picture = frame.to_image()
    turn = int(getattr(frame, "rotation", 0) or 0)
    return picture.rotate(turn, expand=True) if turn % 360 else picture
