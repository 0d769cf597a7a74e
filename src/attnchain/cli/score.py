"""`attnchain score`: masks from anywhere against hand-made ones."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from attnchain.cli.options import Json, Out, Void
from attnchain.cli.session import Clock, report
from attnchain.files import Outputs

Predictions = Annotated[
    Path,
    typer.Argument(
        metavar="PREDICTIONS", help="Folder of the masks.", show_default=False
    ),
]
Truth = Annotated[
    Path,
    typer.Argument(
        metavar="TRUTH", help="Folder of the hand-made masks.", show_default=False
    ),
]


def score(
    predictions: Predictions,
    truth: Truth,
    void: Void = None,
    out: Out = Path("out"),
    json_: Json = False,
) -> None:
    """Score a folder of masks against hand-made masks of the same names."""
    from attnchain.evaluate import score_masks
    from attnchain.models import versions

    clock = Clock()
    with Outputs(out, "score", endings=(".json", ".md"), source=predictions) as outputs:
        scores = score_masks(predictions, truth, void=void)
        clock.lap("score")
        table = scores.table() if scores.ious else None
        lines = [table.markdown()] if table else []
        lines += [
            f"{name} could not be scored: {why}" for name, why in scores.broken.items()
        ]
        lines += [f"{note}." for note in scores.notes]
        text = "\n".join(lines)
        outputs.path(".md").write_text(f"{text}\n", encoding="utf-8")
        settings = {"predictions": str(predictions), "truth": str(truth), "void": void}
        means = {str(row[0]): row[1] for row in table.rows[:5]} if table else {}
        payload = outputs.describe({
            "settings": settings,
            "means": means,
            **asdict(scores),
            "versions": versions(),
            "seconds": clock.laps,
        })  # fmt: skip
    report(payload, [text, *payload["files"]], as_json=json_)
    if scores.broken:
        message = f"{len(scores.broken)} of the masks could not be scored, see above"
        typer.echo(f"attnchain: {message}", err=True)
        raise typer.Exit(1)
