"""`attnchain page`: a picture's chains as one web page."""

from pathlib import Path
from typing import Annotated

import typer

from attnchain.cli.options import Json, Model, Out, Picture
from attnchain.cli.output import Clock, Outputs, load_model, report, working


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
    from attnchain.models import read_picture
    from attnchain.page import collect, write_page

    clock = Clock()
    picture = read_picture(image)
    with Outputs(out, image.stem) as outputs:
        loaded = load_model(model, quiet=json_)
        clock.lap("load")
        with working("reading attention and its eigenvalues", quiet=json_):
            data = collect(loaded, picture, title=image.name, size=size)
        clock.lap("read")
        with working("storing the chains", quiet=json_):
            written = write_page(outputs.path("-page.html"), data)
        clock.lap("write")
        payload = {
            "image": str(image),
            "model": data.model,
            "model_note": data.note,
            "patches": {"rows": data.grid.rows, "columns": data.grid.columns},
            "layers": len(data.layers),
            "heads": data.lambda2.shape[1],
            "bytes": written.stat().st_size,
            "seconds": clock.laps,
        }
        payload = outputs.describe(payload, ending="-page.json")
    lines = [
        f"{data.model}: {data.note}",
        f"{payload['layers']} layers x {payload['heads']} heads over {data.grid}, "
        f"{payload['bytes'] / 1e6:.1f} MB; open it in a browser",
        *payload["files"],
    ]
    report(payload, lines, as_json=json_)
