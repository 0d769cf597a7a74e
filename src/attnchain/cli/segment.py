"""`attnchain segment`: a picture in, its segments out."""

from pathlib import Path
from typing import Annotated

from attnchain.cli import options
from attnchain.cli.session import Task, answer


def segment(  # noqa: PLR0913, PLR0917  (one parameter for each option)
    image: options.Picture,
    range_: options.Range = None,
    model: options.Model = "dinov2-small-saliency",
    layers: options.Layers = None,
    bounces: options.Bounces = None,
    point: options.Point = None,
    foreground: options.Foreground = False,
    sets: options.Sets = "auto",
    size: Annotated[
        int | None, options.size_option("518, or 700 for --foreground")
    ] = None,
    out: options.Out = Path("out"),
    json_: options.Json = False,
) -> None:
    """Cut a picture into the metastable sets of its attention."""
    from attnchain import vision

    asked = {
        "point": options.parse_point(point),
        "foreground": foreground,
        "sets": options.parse_sets(sets),
        "layers": options.parse_layers(layers),
        "bounces": bounces,
        "size": size,
    }
    answer(
        lambda picture, model: vision.segment(picture, model=model, **asked),
        Task(image, range_, model, out, json_),
        kind=vision.Segmentation,
        command="segment",
        settings=asked,
    )
