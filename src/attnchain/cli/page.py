"""`attnchain page`: a picture's chains as one web page."""

from pathlib import Path
from typing import Annotated

from attnchain.cli import options
from attnchain.cli.session import Task, answer


def page(  # noqa: PLR0917  (one parameter for each option)
    image: options.Picture,
    range_: options.Range = None,
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
        Task(image, range_, model, out, json_),
        kind=Page,
        command="page",
        settings={"size": size},
    )
