"""The simple door: a picture in, its segments out."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attnchain.checks import check_whole
from attnchain.errors import ArgumentError
from attnchain.vision.marks import Prompt, segment_prompt
from attnchain.vision.objects import Point, as_point, segment_object, segment_point
from attnchain.vision.picture_attention import read_attention
from attnchain.vision.segmentation import PictureSegmentation
from attnchain.vision.sets import check_sets, segment_sets

if TYPE_CHECKING:
    from PIL.Image import Image

    from attnchain.models import LoadedModel

DEFAULT_LAYERS = (-2, -1)
"""The last two; for the main object the last one alone, which measured best."""
_OBJECT_LAYERS = (-1,)


def segment(  # noqa: PLR0913  (the options of the command line)
    picture: "Image",
    *,
    model: "LoadedModel | None" = None,
    point: Point | None = None,
    prompt: Prompt | None = None,
    foreground: bool = False,
    sets: int | None = None,
    layers: Sequence[int] | None = None,
    bounces: int | None = None,
    size: int | None = None,
) -> PictureSegmentation:
    """Cuts a picture into segments, from its own attention.

    * By default into the metastable sets of its patches, `segment_sets`.
    * With `point` into the object under that point and the rest, `segment_point`.
    * With `prompt` into the object that points and a box ask for, `segment_prompt`.
    * With `foreground` into the main object and the rest, `segment_object`.

    Args:
        picture: A Pillow picture.
        model: What `attnchain.models.load` returned; by default the packaged model.
        point: (x, y) in pixels of the picture.
        prompt: Points on and off the object, and a box, as `Prompt`.
        foreground: Ask for the main object.
        sets: Number of metastable sets; chosen by the chain when not given.
        layers: Layers to read, from 0; by default the last two, for an object the last.
        bounces: Number of bounces: out and back from a point (1 by default), or to
            what the class token sees (10 by default) for the main object.
        size: Longer side the picture is resized to for the model, in pixels; by
            default 518, and 700 for the main object, which measured best.

    Returns:
        `SetSegmentation`, `ObjectSegmentation` for a point and the main object, or
        `ClickSegmentation` for a prompt; labels have the picture's own size.

    Raises:
        ImageError: A point lies outside the picture, or the box misses it.
        ArgumentError: Options that exclude each other, bounces below 1 or so many that
            attention is the same everywhere, or sets outside 2..24.
        SiteNotFoundError: The model has no such layer.
        GridError: Too few patches, or no class token for the main object.
    """
    check_options(point, prompt, sets, bounces, foreground=foreground)
    if model is None:
        from attnchain.models import load

        model = load()
    if size is None:
        size = 700 if foreground else 518
    default = _OBJECT_LAYERS if foreground else DEFAULT_LAYERS
    layers = default if layers is None else layers
    attention = read_attention(picture, model, layers=layers, size=size)
    if prompt is not None:
        return segment_prompt(attention, prompt)
    if point is not None:
        return segment_point(attention, point, bounces=bounces or 1)
    if foreground:
        return segment_object(attention, bounces=bounces or 10)
    return segment_sets(attention, sets)


def check_options(
    point: Point | None,
    prompt: Prompt | None,
    sets: int | None,
    bounces: int | None,
    *,
    foreground: bool,
) -> None:
    """What is wrong is said before a model is loaded.

    Args:
        point: As in `segment`.
        prompt: As in `segment`.
        sets: As in `segment`.
        bounces: As in `segment`.
        foreground: As in `segment`.

    Raises:
        ArgumentError: Options exclude each other, or lie outside their range.
    """
    asked = {
        "point": point,
        "prompt": prompt,
        "foreground": foreground or None,
        "sets": sets,
    }
    given = [name for name, value in asked.items() if value is not None]
    if len(given) > 1:
        message = f"choose one of {' and '.join(given)}: they exclude each other"
        raise ArgumentError(message)
    if point is not None:
        as_point(point)
    if sets is not None:
        check_sets(sets)
    if bounces is not None:
        check_whole(bounces, "bounces")
        if point is None and not foreground:
            message = "bounces go with a point or the main object, not with sets"
            raise ArgumentError(message)
