"""Pictures that carry their settings, and folders of them that resume."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from attnchain.errors import OutputError

KEY = "attnchain"


def save_picture(picture: Image.Image, path: Path, settings: Mapping[str, Any]) -> None:
    """Writes a PNG with its settings in a text field; never leaves half a file.

    Args:
        picture: A PIL picture.
        path: Where to; ends in .png.
        settings: Plain values, kept as JSON under the key "attnchain".

    Raises:
        OutputError: The file cannot be written, is no PNG, or the settings are no
            plain values.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise OutputError(f"settings are kept in PNG files, but the file is {path}")
    text = _as_text(settings)
    fields = PngInfo()
    fields.add_itxt(KEY, text)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(part, format="PNG", pnginfo=fields)
        part.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error}") from error


def read_settings(path: Path) -> dict[str, Any]:
    """The settings that a picture carries; empty when it carries none.

    Args:
        path: A PNG file.

    Raises:
        OutputError: The file cannot be read, or carries something else.
    """
    try:
        with Image.open(path) as picture:
            text = picture.info.get(KEY, "{}")
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error}") from error
    try:
        settings = json.loads(text)
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        message = f"{path} carries {text[:60]!r} under {KEY!r}, which are no settings"
        raise OutputError(message)
    return settings


def fill_folder(
    folder: Path,
    make: Callable[[Sequence[int]], Sequence[Image.Image]],
    *,
    count: int,
    batch: int,
    seed: int,
    settings: Mapping[str, Any],
) -> int:
    """Makes the pictures that a folder still lacks, each from its own seed.

    Picture i is made from seed + i and named by i. What an earlier run finished with
    the same settings is kept; a picture made with other settings is an error, so that
    two runs never mix in one folder.

    Args:
        folder: Where the pictures go.
        make: From a list of seeds to as many pictures.
        count: How many pictures the folder shall hold.
        batch: Pictures to make at a time.
        seed: Seed of the first picture.
        settings: Plain values, kept in every picture with its "seed" added.

    Returns:
        How many pictures were made.

    Raises:
        OutputError: The folder holds a picture with other settings, a number is not
            above 0, the settings are no plain values or hold a seed, `make` gave
            another number of pictures, or one cannot be written.
    """
    if count < 1 or batch < 1:
        message = f"count and batch must be at least 1, but are {count} and {batch}"
        raise OutputError(message)
    if "seed" in settings:
        message = (
            "settings must not hold a seed: every picture has its own, counted from "
            "seed=..."
        )
        raise OutputError(message)
    plain = json.loads(_as_text(settings))
    kept = [plain | {"seed": seed + index} for index in range(count)]
    missing = _missing(folder, kept)
    for first in range(0, len(missing), batch):
        indices = missing[first : first + batch]
        pictures = make([seed + index for index in indices])
        if len(pictures) != len(indices):
            message = f"make gave {len(pictures)} pictures for {len(indices)} seeds"
            raise OutputError(message)
        for index, picture in zip(indices, pictures, strict=True):
            save_picture(picture, _place(folder, index), kept[index])
    return len(missing)


def _missing(folder: Path, settings: Sequence[dict[str, Any]]) -> list[int]:
    """Numbers of the pictures still to make; those made must have these settings."""
    missing = []
    for index, wanted in enumerate(settings):
        path = _place(folder, index)
        if not path.exists():
            missing.append(index)
        elif (found := read_settings(path)) != wanted:
            message = (
                f"{path} was made with other settings ({found}); choose another "
                f"folder, or remove it"
            )
            raise OutputError(message)
    return missing


def _as_text(settings: Mapping[str, Any]) -> str:
    try:
        return json.dumps(settings, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        message = (
            f"settings must be finite numbers, text, lists and dictionaries: {error}"
        )
        raise OutputError(message) from error


def _place(folder: Path, index: int) -> Path:
    return Path(folder) / f"{index:06d}.png"
