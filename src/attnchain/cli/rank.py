"""`attnchain rank`: the most important patches of a picture."""

from pathlib import Path
from typing import Annotated, Literal

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
from attnchain.cli.output import (
    Clock,
    Outputs,
    load_model,
    report,
    save_figure,
    save_map,
    working,
)


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
    from attnchain.maps import enlarge, unit_range
    from attnchain.models import read_picture
    from attnchain.ranking import token_rank
    from attnchain.vision import DEFAULT_LAYERS, patch_centre, read_attention

    chosen = parse_layers(layers) or DEFAULT_LAYERS
    clock = Clock()
    picture = read_picture(image)
    with Outputs(out, image.stem) as outputs:
        loaded = load_model(model, quiet=json_)
        clock.lap("load")
        with working("reading attention and ranking its tokens", quiet=json_):
            attention = read_attention(picture, loaded, layers=chosen, size=size)
            found = token_rank(attention.chain, damping=damping, direction=direction)
        clock.lap("rank")
        share = attention.grid.to_map(found.distribution)
        large = unit_range(enlarge(share, **attention.size))
        save_map(large, outputs.path("-rank-map.png"))
        save_figure(found.plot(attention.grid), outputs.path("-rank.png"))
        clock.lap("write")
        best = [
            {
                "patch": patch,
                "share": float(found.distribution[patch]),
                "centre": patch_centre(attention, patch),
            }
            for patch in found.top(top).tolist()
        ]
        payload = {
            "image": str(image),
            "model": attention.model_name,
            "model_note": attention.model_note,
            "layers": attention.layers,
            "patches": {"rows": attention.grid.rows, "columns": attention.grid.columns},
            "direction": direction,
            "damping": damping,
            "error_bound": float(found.error_bound),
            "iterations": int(found.iterations),
            "top": best,
            "seconds": clock.laps,
        }
        payload = outputs.describe(payload, ending="-rank.json")
    n = attention.grid.n_patches
    lines = [
        f"{attention.model_name}: {attention.model_note}",
        f"TokenRank, {direction}, damping {damping}: L1 error at most "
        f"{payload['error_bound']:.0e} (certified)",
        "  times the mean   centre (x, y) in pixels",
    ]
    for patch in best:
        x, y = patch["centre"]
        lines.append(f"  {patch['share'] * n:14.1f}   ({x:.0f}, {y:.0f})")
    report(payload, [*lines, *payload["files"]], as_json=json_)
