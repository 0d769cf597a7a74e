"""`attnchain heads`: the second eigenvalue of every head on one picture."""

from pathlib import Path

from attnchain.cli import options
from attnchain.cli.session import Task, answer


def heads(  # noqa: PLR0917  (one parameter for each option)
    image: options.Picture,
    range_: options.Range = None,
    model: options.Model = "dinov2-small-saliency",
    layers: options.Layers = None,
    size: options.Size = 518,
    out: options.Out = Path("out"),
    json_: options.Json = False,
) -> None:
    """Show how metastable every head is: |lambda_2|, layers by heads."""
    from attnchain.vision import PictureAttention, read_attention

    asked = {"layers": options.parse_layers(layers), "size": size}
    answer(
        lambda picture, model: read_attention(picture, model, **asked),
        Task(image, range_, model, out, json_),
        kind=PictureAttention,
        command="heads",
        settings=asked,
    )
