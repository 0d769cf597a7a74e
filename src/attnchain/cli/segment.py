"""`attnchain segment`: a picture in, its segments out."""

from pathlib import Path
from typing import Annotated

import typer

from attnchain.cli.options import (
    Json,
    Layers,
    Model,
    Out,
    Picture,
    parse_layers,
    parse_point,
    parse_sets,
)
from attnchain.cli.session import answer


def segment(  # noqa: PLR0913, PLR0917  (one parameter for each option)
    image: Picture,
    model: Model = "dinov2-small-saliency",
    layers: Layers = None,
    bounces: Annotated[
        int | None,
        typer.Option(
            help="Bounces: 1 out and back for --point, 2 for --foreground by default.",
            min=1,
            show_default=False,
        ),
    ] = None,
    point: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y",
            help="Segment the object under this point (pixels of the picture).",
            show_default=False,
        ),
    ] = None,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Segment the main object.")
    ] = False,
    sets: Annotated[
        str, typer.Option(metavar="auto|K", help="Number of metastable sets.")
    ] = "auto",
    size: Annotated[
        int | None,
        typer.Option(
            help="Longer side the model sees, in pixels: 518, or 700 for --foreground.",
            min=1,
            show_default=False,
        ),
    ] = None,
    out: Out = Path("out"),
    json_: Json = False,
) -> None:
    """Cut a picture into the metastable sets of its attention."""
    from attnchain import vision

    asked = {
        "point": parse_point(point),
        "foreground": foreground,
        "sets": parse_sets(sets),
        "layers": parse_layers(layers),
        "bounces": bounces,
        "size": size,
    }
    answer(
        lambda picture, model: vision.segment(picture, model=model, **asked),
        image,
        command="segment",
        model=model,
        out=out,
        as_json=json_,
        settings=asked,
    )
