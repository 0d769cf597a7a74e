"""`attnchain page`: a picture's chains as one web page."""

from pathlib import Path
from typing import Annotated

import typer

from attnchain.cli.options import Json, Model, Out, Picture
from attnchain.cli.session import answer


def page(
    image: Picture,
    model: Model = "dinov2-small-saliency",
    size: Annotated[
        int | None,
        typer.Option(
            help="Longer side the model sees, in pixels; by default 32 patches, or "
            "fewer where the page would exceed 15 MB.",
            min=1,
            show_default=False,
        ),
    ] = None,
    out: Out = Path("out"),
    json_: Json = False,
) -> None:
    """Write a picture's chains as one HTML file to explore without a network."""
    from attnchain.page import collect

    answer(
        lambda picture, model: collect(model, picture, title=image.name, size=size),
        image,
        command="page",
        model=model,
        out=out,
        as_json=json_,
        settings={"size": size},
    )
