"""`attnchain evaluate`: methods and baselines on a data set, one table each."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnchain.cli.options import Json, Model, Void, home, size_option, unset
from attnchain.cli.session import Clock, load_model, report
from attnchain.files import Outputs

if TYPE_CHECKING:
    from attnchain.evaluate import DataSet, Protocol, Run, Table

LayoutName = Annotated[
    str,
    typer.Argument(
        metavar="LAYOUT",
        help="How the data lie: grabcut, davis16val, voc99, ecssd, ...; an unknown "
        "name lists all; folder for your own, with --images and --masks.",
        show_default=False,
    ),
]
Data = Annotated[
    Path | None,
    typer.Argument(
        metavar="DATA", help="The folder (or file) of the data.", show_default=False
    ),
]
Images = Annotated[
    Path | None,
    unset(help="Your own pictures, for LAYOUT folder."),
]
Masks = Annotated[
    Path | None,
    unset(help="Their masks: one object each, 0 is the rest."),
]
Name = Annotated[
    str | None,
    unset(
        help="What your own data are called; by default as the folder above --images."
    ),
]
ProtocolName = Annotated[
    str | None,
    unset(
        help="foreground, clicks, regions or masking; by default the first that fits "
        "the labels."
    ),
]
Families = Annotated[
    str | None,
    unset(
        metavar="A;B",
        help="Methods to run, separated by semicolons; all by default, and an unknown "
        "name lists them.",
    ),
]
Limit = Annotated[
    int | None,
    unset(help="Score only this many pictures.", min=1),
]
LongerSide = Annotated[int | None, size_option("the protocol's")]
ResultFolder = Annotated[
    Path,
    typer.Option(
        callback=home, help="Folder to write to; a run that was killed is continued."
    ),
]


def evaluate(  # noqa: PLR0913, PLR0917  (one parameter for each option)
    layout: LayoutName,
    root: Data = None,
    images: Images = None,
    masks: Masks = None,
    void: Void = None,
    name: Name = None,
    protocol: ProtocolName = None,
    model: Model = "dinov2-small-saliency",
    methods: Families = None,
    limit: Limit = None,
    size: LongerSide = None,
    out: ResultFolder = Path("out"),
    json_: Json = False,
) -> None:
    """Compare methods on a data set of pictures with hand-made labels."""
    clock = Clock()
    own = Own(images, masks, void, name)
    data_set, layout = _opened(layout, root, own)
    kind = _protocol(protocol, data_set)
    loaded = load_model(model, quiet=json_)
    families = [name.strip() for name in methods.split(";")] if methods else None
    chosen = kind(loaded, size=size, families=families)
    clock.lap("load")
    file = out / f"{layout}-{chosen.name}.jsonl"
    Outputs(out, file.stem, endings=(".json", ".md", ".png")).check()
    done = _run(data_set, chosen, file, limit=limit, quiet=json_)
    clock.lap("score")
    _deliver(layout, chosen, done, file, seconds=clock.laps, as_json=json_)
    if not done.results.records:
        first = next(iter(done.broken.values()))
        message = f"none of the {len(done.broken)} pictures could be scored: {first}"
        typer.echo(f"attnchain: {message}", err=True)
        raise typer.Exit(1)


@dataclass(frozen=True)
class Own:
    """Data of one's own, as the options say."""

    images: Path | None
    masks: Path | None
    void: int | None
    name: str | None


def _opened(layout: str, root: Path | None, own: Own) -> "tuple[DataSet, str]":
    """The data set, and what its files are called."""
    from attnchain.evaluate import open_data_set, own_data_set

    if layout != "folder":
        if own != Own(None, None, None, None):
            message = "they go with the layout folder"
            raise typer.BadParameter(message, param_hint="--images, --masks, ...")
        if root is None:
            raise typer.BadParameter("give the folder of the data", param_hint="DATA")
        return open_data_set(layout, root), layout
    if root is not None or own.images is None or own.masks is None:
        message = "the layout folder takes --images and --masks, and no DATA"
        raise typer.BadParameter(message, param_hint="LAYOUT")
    name = own.name or own.images.absolute().parent.name or "folder"
    if name != Path(name).name:
        raise typer.BadParameter("a name is no path", param_hint="--name")
    return own_data_set(own.images, own.masks, void=own.void), name


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
    from rich.progress import Progress

    from attnchain.evaluate import run

    with Progress(console=Console(stderr=True), disable=quiet) as bar:
        task = bar.add_task(protocol.name)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        return run(data_set, protocol, file, limit=limit, progress=progress)


def _deliver(
    layout: str,
    protocol: "Protocol",
    done: "Run",
    file: Path,
    *,
    seconds: dict[str, float],
    as_json: bool,
) -> None:
    """Writes tables, figures and a description, and prints them."""
    from attnchain.models import origin
    from attnchain.plot import save_figure

    scored = bool(done.results.records)
    tables = protocol.tables(done.results) if scored else []
    figures = protocol.figures(done.results) if scored else {}
    text = _markdown(layout, tables, done, protocol)
    payload = {
        "data_set": layout,
        "protocol": protocol.name,
        "model": protocol.model.name,
        "model_note": protocol.model.note,
        "size": protocol.pixels,
        "pictures": {"scored": len(done.results.records), "in_data_set": done.total},
        "broken": done.broken,
        "notes": done.notes,
        "tables": [asdict(table) for table in tables],
        "settings": protocol.settings,
        **origin(protocol.model.model, _inputs(done)),
        "seconds": seconds,
    }
    endings = (".json", ".md", *(f"{ending}.png" for ending in figures))
    with Outputs(file.parent, file.stem, endings=endings) as outputs:
        outputs.path(".md").write_text(text, encoding="utf-8")
        for ending, figure in figures.items():
            save_figure(figure, outputs.path(f"{ending}.png"))
        payload = outputs.describe(payload)
    report(payload, [text, *payload["files"]], as_json=as_json)


def _inputs(done: "Run") -> bytes:
    """Names and digests of what was scored, a line for each picture."""
    scored = sorted((r["picture"], r["digest"]) for r in done.results.records)
    return "".join(f"{name} {digest}\n" for name, digest in scored).encode()


def _markdown(
    layout: str, tables: "list[Table]", done: "Run", protocol: "Protocol"
) -> str:
    """All tables under one heading that says what was run."""
    model, count = protocol.model, len(done.results.records)
    head = [
        f"## {layout}, {count} of {done.total} pictures",
        "",
        f"Model: {model.name}, longer side {protocol.pixels} px. {model.note}",
        "",
    ]
    parts = [part for table in tables for part in (table.markdown(), "")]
    tail = [f"{len(done.broken)} pictures could not be scored."]
    tail += [f"* {name}: {reason}" for name, reason in done.broken.items()]
    tail += [f"{note}." for note in done.notes]
    return "\n".join([*head, *parts, *tail]) + "\n"
