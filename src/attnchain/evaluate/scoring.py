"""Masks that come from anywhere, scored against hand-made ones."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from attnchain.errors import ChainError, DataSetError
from attnchain.evaluate.datasets import files_in, left_out
from attnchain.evaluate.labels import VOID, object_beside, read_labels
from attnchain.evaluate.metrics import class_mean_miou, confusion, iou
from attnchain.evaluate.report import Table, interval
from attnchain.models import PICTURE_ENDINGS, file_digest
from attnchain.vision import EXPORTS

OURS = EXPORTS["labels"].ending.removesuffix(".png")
"""What our own commands append to a picture's name."""


@dataclass(frozen=True)
class Scores:
    """What every mask scored, and which could not be.

    Attributes:
        ious: Intersection over union by name.
        class_mean: Mean of the IoU of object and rest, over the pixels of all masks.
        broken: Why a mask could not be scored, by name.
        inputs: The sha256 of both files of what was scored, by name.
        notes: Files that were left out, in sentences.
    """

    ious: dict[str, float]
    class_mean: float
    broken: dict[str, str] = field(default_factory=dict[str, str])
    inputs: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    notes: tuple[str, ...] = ()

    def table(self) -> Table:
        """Means, a 95 % interval over the pictures, and the worst masks."""
        values = list(self.ious.values())
        low, high = interval(values)
        worst = sorted(self.ious.items(), key=lambda entry: entry[1])[:5]
        rows = (
            ("mean IoU", sum(values) / len(values)),
            ("95 % interval of it, low", low),
            ("95 % interval of it, high", high),
            ("share of masks with IoU of at least .5", _share(values, 0.5)),
            ("class-mean mIoU over pixels", self.class_mean),
            *((f"one of the worst: {name}", value) for name, value in worst),
        )
        return Table(
            f"{len(values)} masks",
            "intersection over union of the object; void pixels are left out",
            ("", "value"),
            rows,
        )


def score_masks(predictions: Path, truth: Path, *, void: int | None = None) -> Scores:
    """Scores every mask of one folder against that of the same name in another.

    Of each name in `truth` the prediction is the file of that name, or of that name
    with "-segments" as attnchain writes it; file endings may differ. Masks are read
    by what they mean: 0 and one other value, 1-bit, grey or palette.

    Args:
        predictions: Folder of the masks to score.
        truth: Folder of the hand-made ones.
        void: Grey value or index in `truth` of pixels that are not scored.

    Raises:
        DataSetError: A folder is missing or empty, or all objects are void.
        MissingExtraError: torchmetrics is not installed.
    """
    drawn, others = files_in(truth, PICTURE_ENDINGS)
    made, _ = files_in(predictions, PICTURE_ENDINGS)
    if not drawn:
        raise DataSetError(f"{truth} holds no mask")
    ious: dict[str, float] = {}
    broken: dict[str, str] = {}
    inputs: dict[str, dict[str, str]] = {}
    matrix = torch.zeros(2, 2, dtype=torch.int64)
    for name, file in drawn.items():
        try:
            guess = _predicted(name, made, predictions)
            mask = torch.from_numpy(read_labels(guess, object_beside(None)))
            right = torch.from_numpy(read_labels(file, object_beside(void)))
            _check(mask, right)
        except ChainError as error:
            broken[name] = str(error)
            continue
        ious[name] = iou(mask == 1, right)
        inputs[name] = {"prediction": file_digest(guess), "truth": file_digest(file)}
        matrix += confusion((mask == 1).long(), right, count=2)
    if ious and void is not None and not int(matrix[1].sum()):
        message = (
            f"no pixel of an object is left in {truth} beside the void value {void}: "
            "give the value of pixels that are not scored (255 is mostly the object), "
            "or leave --void out"
        )
        raise DataSetError(message)
    unknown = sorted({*made} - {*drawn} - {f"{name}{OURS}" for name in drawn})
    notes = (
        left_out(others, f"in {truth} with no ending of a picture"),
        left_out(unknown, f"in {predictions} without a mask of that name in {truth}"),
    )
    mean = class_mean_miou(matrix) if ious else float("nan")
    return Scores(ious, mean, broken, inputs, tuple(note for note in notes if note))


def _predicted(name: str, made: dict[str, Path], folder: Path) -> Path:
    ours = made.get(f"{name}{OURS}")
    file = ours or made.get(name)
    if file is None:
        raise DataSetError(f"expected a mask called {name} in {folder}")
    if ours is not None and _is_sets(folder / f"{name}.json"):
        message = (
            f"{ours} divides the picture into sets, and does not say which is the "
            "object: segment it with --foreground, points or a box"
        )
        raise DataSetError(message)
    return file


def _is_sets(description: Path) -> bool:
    try:
        return json.loads(description.read_text("utf-8")).get("mode") == "sets"
    except (OSError, ValueError, AttributeError):
        return False


def _check(mask: torch.Tensor, truth: torch.Tensor) -> None:
    if mask.shape != truth.shape:
        expected, came = ("{1} x {0} pixels".format(*x.shape) for x in (truth, mask))
        raise DataSetError(f"expected a mask of {expected}, but it has {came}")
    if not bool((truth != VOID).any()):
        raise DataSetError("the hand-made mask is void in every pixel")


def _share(values: Sequence[float], least: float) -> float:
    return sum(value >= least for value in values) / len(values)
