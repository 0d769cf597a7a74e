"""`attnchain evaluate`: methods and baselines on a data set, one table each."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress

from attnchain.cli.options import Json, Model
from attnchain.cli.output import Clock, Outputs, load_model, report, save_figure

if TYPE_CHECKING:
    from attnchain.evaluate import DataSet, Protocol, Run, Table


def evaluate(  # noqa: PLR0913, PLR0917  (one parameter for each option)
    layout: Annotated[
        str,
        typer.Argument(
            metavar="LAYOUT",
            help="How the data lie: grabcut, davis16val, voc99, ecssd, ...; an "
            "unknown name lists all.",
            show_default=False,
        ),
    ],
    root: Annotated[
        Path,
        typer.Argument(
            metavar="DATA", help="The folder (or file) of the data.", show_default=False
        ),
    ],
    protocol: Annotated[
        str | None,
        typer.Option(
            help="foreground, clicks, regions or masking; by default the first that "
            "fits the labels.",
            show_default=False,
        ),
    ] = None,
    model: Model = "dinov2-small-saliency",
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="A;B",
            help="Methods to run, separated by semicolons; all by default, and an "
            "unknown name lists them.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(help="Score only this many pictures.", min=1, show_default=False),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            help="Longer side the model sees, in pixels; by default the protocol's.",
            min=1,
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(help="Folder to write to; a run that was killed is continued."),
    ] = Path("out"),
    json_: Json = False,
) -> None:
    """Compare methods on a data set of pictures with hand-made labels."""
    from attnchain.evaluate import open_data_set

    clock = Clock()
    data_set = open_data_set(layout, root)
    kind = _protocol(protocol, data_set)
    loaded = load_model(model, quiet=json_)
    families = [name.strip() for name in methods.split(";")] if methods else None
    chosen = kind(loaded, size=size, families=families)
    clock.lap("load")
    stem = f"{layout}-{chosen.name}"
    done = _run(data_set, chosen, out / f"{stem}.jsonl", limit=limit, quiet=json_)
    clock.lap("score")
    with Outputs(out, stem) as outputs:
        tables, figures = [], {}
        if done.records:
            tables = chosen.tables(done.records, done.marked)
            figures = chosen.figures(done.records, done.marked)
        text = _markdown(layout, loaded.note, tables, done, chosen)
        outputs.path(".md").write_text(text, encoding="utf-8")
        for ending, figure in figures.items():
            save_figure(figure, outputs.path(f"{ending}.png"))
        payload = {
            "data_set": layout,
            "protocol": chosen.name,
            "model": loaded.name,
            "model_note": loaded.note,
            "size": chosen.pixels,
            "pictures": {"scored": len(done.records), "in_data_set": done.total},
            "broken": done.broken,
            "tables": [_payload(table) for table in tables],
            "seconds": clock.laps,
        }
        payload = outputs.describe(payload)
    report(payload, [text, *payload["files"]], as_json=json_)


def _protocol(name: str | None, data_set: "DataSet") -> "type[Protocol]":
    """The protocol asked for, or the first one that fits."""
    from attnchain.evaluate import PROTOCOLS

    if name is None:
        fitting = (p for p in PROTOCOLS.values() if data_set.kind in p.kinds)
        return next(fitting)
    if name not in PROTOCOLS:
        message = f"{name!r} is none of {', '.join(PROTOCOLS)}"
        raise typer.BadParameter(message, param_hint="--protocol")
    return PROTOCOLS[name]


def _run(
    data_set: "DataSet",
    protocol: "Protocol",
    file: Path,
    *,
    limit: int | None,
    quiet: bool,
) -> "Run":
    """Scores the pictures, with a bar on the error stream."""
    from rich.console import Console

    from attnchain.evaluate import run

    with Progress(console=Console(stderr=True), disable=quiet) as bar:
        task = bar.add_task(protocol.name)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        return run(data_set, protocol, file, limit=limit, progress=progress)


def _markdown(
    layout: str, note: str, tables: "list[Table]", done: "Run", protocol: "Protocol"
) -> str:
    """All tables under one heading that says what was run."""
    head = [
        f"## {layout}, {len(done.records)} of {done.total} pictures",
        "",
        f"Model: {protocol.model.name}, longer side {protocol.pixels} px. {note}",
        "",
    ]
    parts = [part for table in tables for part in (table.markdown(), "")]
    tail = [f"{len(done.broken)} pictures could not be scored."]
    tail += [f"* {name}: {reason}" for name, reason in done.broken.items()]
    return "\n".join([*head, *parts, *tail]) + "\n"


def _payload(table: "Table") -> dict[str, Any]:
    """A table as data."""
    return {
        "title": table.title,
        "protocol": table.protocol,
        "columns": table.columns,
        "rows": table.rows,
        "notes": table.notes,
    }
