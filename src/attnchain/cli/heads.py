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
from attnchain.cli.output import (
    Clock,
    Outputs,
    load_model,
    report,
    save_figure,
    working,
)


def heads(  # noqa: PLR0917  (one parameter for each option)
    image: Picture,
    model: Model = "dinov2-small-saliency",
    layers: Layers = None,
    size: Size = 518,
    out: Out = Path("out"),
    json_: Json = False,
) -> None:
    """Show how metastable every head is: |lambda_2|, layers by heads."""
    from attnchain.models import read_picture
    from attnchain.plot import plot_heads
    from attnchain.vision import read_attention

    chosen = parse_layers(layers)
    clock = Clock()
    picture = read_picture(image)
    with Outputs(out, image.stem) as outputs:
        loaded = load_model(model, quiet=json_)
        clock.lap("load")
        with working("finding lambda_2 of every head", quiet=json_):
            attention = read_attention(picture, loaded, layers=chosen, size=size)
            lambda2 = attention.lambda2
        clock.lap("heads")
        axes = plot_heads(lambda2, attention.layers)
        save_figure(axes, outputs.path("-heads.png"))
        payload = {
            "image": str(image),
            "model": attention.model_name,
            "model_note": attention.model_note,
            "layers": attention.layers,
            "lambda2": lambda2.tolist(),
            "seconds": clock.laps,
        }
        payload = outputs.describe(payload, ending="-heads.json")
    lines = [f"{attention.model_name}: {attention.model_note}", "layer   |lambda_2|"]
    for layer, row in zip(attention.layers, lambda2.tolist(), strict=True):
        lines.append(f"{layer:5d}   " + " ".join(f"{value:.3f}" for value in row))
    report(payload, [*lines, *payload["files"]], as_json=json_)
