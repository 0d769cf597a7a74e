"""`attnchain page`: a picture's chains as one web page."""

from pathlib import Path
from typing import Annotated

from attnchain.cli import options
from attnchain.cli.session import answer


def page(
    image: options.Picture,
    model: options.Model = "dinov2-small-saliency",
    size: Annotated[
        int | None,
        options.size_option("32 patches, or fewer where the page would exceed 15 MB"),
    ] = None,
    out: options.Out = Path("out"),
    json_: options.Json = False,
) -> None:
    """Write a picture's chains as one HTML file to explore without a network."""
    from attnchain.page import Page, collect

    answer(
        lambda picture, model: Page(
            collect(model, picture, title=image.name, size=size)
        ),
        image,
        command="page",
        model=model,
        out=out,
        as_json=json_,
        settings={"size": size},
    )
