"""What commands on many pictures share: find, mark, run, record, say."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from attnchain.cli.session import Clock, report
from attnchain.files import Outputs

if TYPE_CHECKING:
    from attnchain.folder import Item, Job, Outcome, Picture
    from attnchain.vision import Prompt


@dataclass(frozen=True)
class Where:
    """Which pictures, and where they are answered.

    Attributes:
        paths: Files, folders and patterns.
        recursive: Look in the folders of a folder, too.
        marks: File of the marks in each picture.
        workers: Pictures read at once.
        engine: "local" or "ray".
        address: Of a running Ray cluster.
    """

    paths: Sequence[Path]
    recursive: bool
    marks: Path | None
    workers: int
    engine: str
    address: str | None


def answer_many(
    job: "Job", where: Where, prompt: "Prompt | None", *, as_json: bool
) -> None:
    """Answers every picture, records the job, and says how it went.

    Exit code 0 where every picture was answered, 1 otherwise.

    Args:
        job: What is done with each.
        where: The pictures and the engine.
        prompt: Marks that hold for all pictures.
        as_json: Print the record instead of sentences.
    """
    from attnchain.folder import find_pictures, orphans, plan, run
    from attnchain.models import versions

    clock = Clock()
    pictures = find_pictures(where.paths, recursive=where.recursive)
    prompts, missed = _prompts(pictures, where.marks, prompt)
    items = plan(job, pictures, prompts)
    clock.lap("find")
    at = {"workers": where.workers, "engine": where.engine, "address": where.address}
    ready = run(job, items, **at)
    with job.record() as outputs:
        outcomes: list[Outcome] = []
        with _progress(len(items), quiet=as_json) as bar:
            for outcome in ready:
                outcomes.append(outcome)
                bar.advance(bar.task_ids[0])
                _tell(outcome)
        clock.lap("answer")
        _merge(job, outcomes, outputs)
        failed = missed | {
            str(o.item.picture.path): o.reason for o in _failed(outcomes)
        }
        counts = Counter(outcome.status for outcome in outcomes)
        gone = [str(file) for file in orphans(job, items)]
        for file in gone:
            note = (
                "its picture is not there any more; remove it with the files beside it"
            )
            typer.echo(f"attnchain: warning: {file}: {note}", err=True)
        payload = outputs.describe({
            "pictures": len(pictures),
            "done": counts["done"],
            "kept": counts["kept"],
            "failed": failed,
            "gone": gone,
            "settings": {"model": job.model, **job.settings, **at},
            "answers": [_entry(o) for o in sorted(outcomes, key=_place)],
            "versions": versions(),
            "seconds": clock.laps,
        })  # fmt: skip
    report(payload, [_summary(counts, len(failed), clock), *payload["files"]],
           as_json=as_json)  # fmt: skip
    if failed:
        raise typer.Exit(1)


def _prompts(
    pictures: "Sequence[Picture]", marks: Path | None, prompt: "Prompt | None"
) -> "tuple[Mapping[Picture, Prompt] | None, dict[str, str]]":
    """Marks by picture, and what is wrong with pictures and lines that do not meet."""
    from attnchain.folder import match_marks, read_marks

    if marks is None:
        return (None if prompt is None else dict.fromkeys(pictures, prompt)), {}
    found, lost = match_marks(read_marks(marks), pictures)
    missed = dict.fromkeys(
        lost, f"{marks} has marks for it, but it fits no picture, or several"
    )
    for picture in pictures:
        if picture not in found:
            missed[str(picture.path)] = f"{marks} has no line for it"
    for name, reason in missed.items():
        typer.echo(f"attnchain: {name}: {reason}", err=True)
    return found, missed


def _tell(outcome: "Outcome") -> None:
    path = outcome.item.picture.path
    for note in outcome.notes:
        typer.echo(f"attnchain: warning: {path}: {note}", err=True)
    if outcome.status == "failed":
        typer.echo(f"attnchain: {path}: {outcome.reason}", err=True)


def _failed(outcomes: "Sequence[Outcome]") -> "list[Outcome]":
    return [outcome for outcome in outcomes if outcome.status == "failed"]


def _place(outcome: "Outcome") -> Path:
    return outcome.item.picture.place


def _entry(outcome: "Outcome") -> dict[str, Any]:
    item = outcome.item
    return {
        "picture": str(item.picture.path),
        "status": outcome.status,
        **outcome.facts,
    }


def _merge(job: "Job", outcomes: "Sequence[Outcome]", outputs: Outputs) -> None:
    """All COCO files as one."""
    from attnchain.folder import merged_coco
    from attnchain.vision import EXPORTS

    if "coco" not in (job.files or ()):
        return
    answered = [o.item for o in sorted(outcomes, key=_place) if o.status != "failed"]

    def file(item: "Item") -> Path:
        return job.folder(item) / f"{item.stem}{EXPORTS['coco'].ending}"

    files = [(file(item), item.picture.place.as_posix()) for item in answered]
    outputs.write_json("-coco.json", merged_coco(files))


def _summary(counts: Mapping[str, int], failed: int, clock: Clock) -> str:
    seconds = clock.laps["answer"]
    rate = 60 * counts["done"] / seconds if seconds else 0.0
    said = [
        f"{counts['done']} pictures answered in {seconds:.0f} s ({rate:.0f} a minute)"
    ]
    if counts["kept"]:
        said.append(f"{counts['kept']} kept from an earlier run")
    if failed:
        said.append(f"{failed} failed, see above")
    return "; ".join(said)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Pictures a minute."""
        return Text(f"{60 * (task.speed or 0):.0f} a minute")


@contextmanager
def _progress(total: int, *, quiet: bool) -> Iterator[Progress]:
    columns = (
        TextColumn("pictures"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=quiet) as bar:
        bar.add_task("pictures", total=total)
        yield bar
