"""`attnchain rank`: the most important patches of a picture."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from attnchain.cli.options import (
    Json,
    Layers,
    Model,
    Out,
    Picture,
    Size,
    parse_layers,
)
from attnchain.cli.session import answer

if TYPE_CHECKING:
    from PIL.Image import Image

    from attnchain.models import LoadedModel
    from attnchain.vision import PictureRank


def rank(  # noqa: PLR0913, PLR0917  (one parameter for each option)
    image: Picture,
    model: Model = "dinov2-small-saliency",
    layers: Layers = None,
    direction: Annotated[
        Literal["incoming", "outgoing"],
        typer.Option(help="Where attention arrives, or where it comes from."),
    ] = "incoming",
    damping: Annotated[
        float, typer.Option(help="Probability of following attention, in (0, 1].")
    ] = 0.99,
    top: Annotated[int, typer.Option(help="How many patches to list.", min=1)] = 10,
    size: Size = 518,
    out: Out = Path("out"),
    json_: Json = False,
) -> None:
    """Rank the patches of a picture by TokenRank."""
    from attnchain import vision

    chosen = parse_layers(layers) or vision.DEFAULT_LAYERS

    def question(picture: "Image", model: "LoadedModel") -> "PictureRank":
        read = vision.read_attention(picture, model, layers=chosen, size=size)
        return vision.rank_patches(
            read, damping=damping, direction=direction, count=top
        )

    answer(
        question,
        image,
        command="rank",
        model=model,
        out=out,
        as_json=json_,
        settings={"layers": chosen, "top": top, "size": size},
    )
