"""`attnchain heads`: the second eigenvalue of every head on one picture."""

from pathlib import Path

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


def heads(  # noqa: PLR0917  (one parameter for each option)
    image: Picture,
    model: Model = "dinov2-small-saliency",
    layers: Layers = None,
    size: Size = 518,
    out: Out = Path("out"),
    json_: Json = False,
) -> None:
    """Show how metastable every head is: |lambda_2|, layers by heads."""
    from attnchain.vision import read_attention

    asked = {"layers": parse_layers(layers), "size": size}
    answer(
        lambda picture, model: read_attention(picture, model, **asked),
        image,
        command="heads",
        model=model,
        out=out,
        as_json=json_,
        settings=asked,
    )
