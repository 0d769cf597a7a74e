"""`attnchain rank`: the most important patches of a picture."""

from pathlib import Path
from typing import TYPE_CHECKING

from attnchain.cli import options
from attnchain.cli.session import Task, answer

if TYPE_CHECKING:
    from PIL.Image import Image

    from attnchain.models import LoadedModel
    from attnchain.vision import PictureRank


def rank(  # noqa: PLR0913, PLR0917  (one parameter for each option)
    image: options.Picture,
    range_: options.Range = None,
    model: options.Model = "dinov2-small-saliency",
    layers: options.Layers = None,
    direction: options.Direction = "incoming",
    damping: options.Damping = 0.99,
    top: options.Top = 10,
    size: options.Size = 518,
    out: options.Out = Path("out"),
    json_: options.Json = False,
) -> None:
    """Rank the patches of a picture by TokenRank."""
    from attnchain import vision

    chosen = options.parse_layers(layers) or vision.DEFAULT_LAYERS

    def question(picture: "Image", model: "LoadedModel") -> "PictureRank":
        read = vision.read_attention(picture, model, layers=chosen, size=size)
        return vision.rank_patches(
            read, damping=damping, direction=direction, count=top
        )

    answer(
        question,
        Task(image, range_, model, out, json_),
        kind=vision.PictureRank,
        command="rank",
        settings={"layers": chosen, "top": top, "size": size},
    )
