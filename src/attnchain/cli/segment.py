"""`attnchain segment`: a picture in, its segments out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from attnchain.cli.output import (
    Clock,
    Outputs,
    load_model,
    report,
    save_figure,
    save_labels,
    save_map,
    working,
)
from attnchain.vision import segment_names

if TYPE_CHECKING:
    from attnchain.vision import Segmentation


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
    from attnchain.models import read_picture
    from attnchain.vision import segment as segment_picture

    asked = {
        "point": parse_point(point),
        "foreground": foreground,
        "sets": parse_sets(sets),
        "layers": parse_layers(layers),
        "bounces": bounces,
        "size": size,
    }
    clock = Clock()
    picture = read_picture(image)
    with Outputs(out, image.stem) as outputs:
        loaded = load_model(model, quiet=json_)
        clock.lap("load")
        with working("reading attention and solving its chains", quiet=json_):
            result = segment_picture(picture, model=loaded, **asked)
        clock.lap("segment")
        save_labels(result.labels, outputs.path("-segments.png"))
        if result.sets is None:
            save_map(result.maps[0], outputs.path("-map.png"))
        save_figure(result.plot(), outputs.path("-figure.png"))
        clock.lap("write")
        payload = {"image": str(image), "settings": asked, **_payload(result)}
        payload["seconds"] = clock.laps
        payload = outputs.describe(payload)
    report(payload, _lines(result, payload["files"]), as_json=json_)


def _payload(result: "Segmentation") -> dict[str, Any]:
    """The numbers behind the pictures."""
    attention, rank = result.attention, result.rank
    payload: dict[str, Any] = {
        "mode": result.mode,
        "model": attention.model_name,
        "model_note": attention.model_note,
        "picture": attention.size,
        "patches": {"rows": attention.grid.rows, "columns": attention.grid.columns},
        "layers": attention.layers,
        "lambda2": attention.lambda2.tolist(),
        "start_patch": result.start,
        "token_rank": {
            "damping": rank.damping,
            "direction": rank.direction,
            "error_bound": float(rank.error_bound),
            "iterations": int(rank.iterations),
        },
    }
    if result.sets is not None:
        values = result.sets.eigenvalues
        payload["sets"] = {
            "prevalence": result.sets.prevalence.tolist(),
            "retention": result.sets.retention.tolist(),
            "coarse": result.sets.coarse.tolist(),
            "eigenvalue_moduli": values.abs().tolist(),
        }
    else:
        payload["object_share"] = float(result.labels.double().mean())
    return payload


def _lines(result: "Segmentation", files: list[str]) -> list[str]:
    """What a person wants to know."""
    attention = result.attention
    layers = ", ".join(map(str, attention.layers))
    lines = [
        f"{attention.model_name}, layers {layers}: {attention.model_note}",
        f"{attention.grid.rows} x {attention.grid.columns} patches, TokenRank within "
        f"{float(result.rank.error_bound):.0e} (certified)",
    ]
    if result.sets is not None:
        lines += segment_names(result)
    else:
        lines.append(
            f"object: {float(result.labels.double().mean()):.1%} of the pixels"
        )
    return [*lines, *files]
