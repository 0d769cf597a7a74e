"""What is done with every picture of a folder, and what came of it."""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attnchain.errors import ChainError, ImageError, memory_ran_out
from attnchain.files import DESCRIPTIONS, Outputs, described
from attnchain.folder.finding import Picture
from attnchain.models import file_digest, read_picture, versions, weights_digest
from attnchain.vision import Prompt, Segmentation, segment

if TYPE_CHECKING:
    from attnchain.models import LoadedModel

RECORD = "attnchain-job"
"""What the record of a job is called in its folder."""


@dataclass(frozen=True)
class Item:
    """One picture of a job.

    Attributes:
        picture: The file and its place.
        stem: What the names of its results begin with.
        prompt: What was marked in it.
    """

    picture: Picture
    stem: str
    prompt: Prompt | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of one picture.

    Attributes:
        item: The picture.
        status: Answered now, kept from an earlier run, or failed.
        reason: Why it failed.
        notes: What was said while it was read.
        facts: The numbers of its answer that a list shows.
    """

    item: Item
    status: Literal["done", "kept", "failed"]
    reason: str = ""
    notes: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Job:
    """The question to every picture, and where the answers go.

    Attributes:
        model: Name of the model.
        out: Folder of the results; inside, pictures lie as they lie in theirs.
        settings: What `attnchain.vision.segment` is asked.
        files: Forms that are saved, see `Segmentation.save`; None for the usual ones.
        value_range: Values of grey pictures that are black and white.
    """

    model: str
    out: Path
    settings: Mapping[str, Any]
    files: tuple[str, ...] | None = None
    value_range: tuple[float, float] | None = None

    def answer(self, item: Item, loaded: "LoadedModel") -> Outcome:
        """Segments one picture and writes its files; what fails is told, not raised."""
        with warnings.catch_warnings(record=True) as heard:
            try:
                facts = self._written(item, loaded)
            except Exception as error:  # noqa: BLE001  (one picture must not end a job)
                return Outcome(item, "failed", _reason(error))
        said = dict.fromkeys(str(warning.message) for warning in heard)
        return Outcome(item, "done", notes=tuple(said), facts=facts)

    def kept(self, item: Item, weights: Callable[[], str]) -> Outcome | None:
        """The outcome of an earlier run, where its files are whole and still fit.

        Args:
            item: The picture.
            weights: Gives the sha256 of the model's weights; asked where all else fits.
        """
        file = self.folder(item) / f"{item.stem}.json"
        told = described(file)
        try:
            if not told or told.get("job") != self._digest(item):
                return None
        except OSError:
            return None
        files = (file.parent / Path(name).name for name in told["files"])
        if all(map(Path.is_file, files)) and told.get("weights_sha256") == weights():
            return Outcome(item, "kept", facts=_listed(told))
        return None

    def folder(self, item: Item) -> Path:
        """Where the results of a picture go."""
        return self.out / item.picture.place.parent

    def outputs(self, item: Item) -> Outputs:
        """Collects the results of a picture."""
        endings = (Segmentation.ending, *Segmentation.beside)
        return Outputs(
            self.folder(item),
            item.stem,
            endings=endings,
            source=item.picture.path,
            siblings=DESCRIPTIONS,
        )

    def record(self) -> Outputs:
        """Collects what tells of the whole job."""
        return Outputs(self.out, RECORD, endings=(".json", "-coco.json"))

    def _written(self, item: Item, loaded: "LoadedModel") -> dict[str, Any]:
        path = item.picture.path
        try:
            picture = read_picture(path, value_range=self.value_range)
        except ImageError:
            self.outputs(item).withdraw()
            raise
        asked = {**self.settings}
        if item.prompt is not None:
            asked["prompt"] = item.prompt
        with self.outputs(item) as outputs:
            result = segment(picture, model=loaded, **asked)
            result.write(outputs, self.files)
            head = {
                "image": str(path),
                "job": self._digest(item),
                "versions": versions(),
                "weights_sha256": weights_of(loaded),
                "input_sha256": file_digest(path),
                "settings": asked,
            }
            if item.prompt is not None:
                head["settings"]["prompt"] = asdict(item.prompt)
            payload = outputs.describe({**head, **result.facts()})
        return _listed(payload)

    def _digest(self, item: Item) -> str:
        """Of all that the answer follows from, but the weights."""
        from attnchain import __version__

        asked = {
            "version": __version__,
            "model": self.model,
            "settings": dict(self.settings),
            "files": self.files,
            "range": self.value_range,
            "prompt": item.prompt and asdict(item.prompt),
        }
        whole = hashlib.sha256(json.dumps(asked, sort_keys=True).encode())
        whole.update(item.picture.path.read_bytes())
        return whole.hexdigest()


@cache
def weights_of(loaded: "LoadedModel") -> str:
    """The sha256 of a model's weights, worked out once.

    Args:
        loaded: The model.
    """
    return weights_digest(loaded.model)


def orphans(job: Job, items: Iterable[Item]) -> list[Path]:
    """Answers of an earlier run whose picture is gone, renamed for example.

    Args:
        job: What is done.
        items: The pictures that are there.

    Returns:
        The files of their numbers.
    """
    own = {job.folder(item) / f"{item.stem}.json" for item in items}
    found: list[Path] = []
    for file in sorted(job.out.rglob("*.json")):
        told = {} if file in own else described(file)
        if "job" in told and not Path(told["image"]).exists():
            found.append(file)
    return found


def plan(
    job: Job, pictures: Iterable[Picture], prompts: Mapping[Picture, Prompt] | None
) -> list[Item]:
    """Gives every picture a name for its results that no other one has.

    No file of one is a file of another or of the job's record, either: `x-coco.json`
    could be the numbers of `x-coco.png` or the COCO file of `x.png`.

    Args:
        job: What will be done.
        pictures: The pictures.
        prompts: Marks by picture; pictures without are left out. None for no marks.

    Raises:
        OutputError: The results cannot be written, or would replace files that are not
            ours.
    """
    taken = {*job.record().targets}
    items: list[Item] = []
    for picture in pictures:
        if prompts is not None and picture not in prompts:
            continue
        prompt = prompts[picture] if prompts else None
        outputs = job.outputs(Item(picture, picture.path.stem, prompt))
        outputs.check(taken)
        taken.update(outputs.targets)
        items.append(Item(picture, outputs.stem, prompt))
    return items


def _listed(payload: Mapping[str, Any]) -> dict[str, Any]:
    names = ("mode", "object_share", "confidence", "files")
    return {name: payload[name] for name in names if name in payload}


def _reason(error: Exception) -> str:
    if memory_ran_out(error):
        return "memory ran out; give a smaller size, fewer sets or a smaller picture"
    first = (str(error).splitlines() or [""])[0]
    return (
        first if isinstance(error, ChainError) else f"{type(error).__name__}: {first}"
    )
