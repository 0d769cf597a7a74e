"""Objects found by clicks: how many it takes a person whom the labels play."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attnchain.evaluate import baselines
from attnchain.evaluate.datasets import Truth
from attnchain.evaluate.method import Method, late, named
from attnchain.evaluate.metrics import iou
from attnchain.evaluate.protocol import Protocol, attempted
from attnchain.evaluate.report import FAILED, Column, Record, Results, Table, curves
from attnchain.evaluate.subject import Layers, Subject
from attnchain.maps import enlarge, otsu_threshold, regions_at, unit_range
from attnchain.methods import segment_nearest
from attnchain.vision import Clicks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pixel = tuple[int, int]
Mask = Bool[Tensor, "height width"]
Masker = Callable[[Subject, "Clicked"], Mask]
MOST_CLICKS: Final = 20
PROTOCOL: Final = (
    "clicks: at most 20, the first at the most interior pixel of the object, each "
    "next one at the most interior pixel of the larger error; a mask after each click "
    "from all clicks together. NoC@q: mean number of clicks to an IoU of q, 20 where "
    "it is not reached. Clicking stops at IoU 0.90, and that IoU is then held. "
    "Settings chosen by IoU after one click"
)


class ClickProtocol(Protocol):
    """One object by clicks."""

    name = "clicks"
    kinds = ("object",)
    size = 518

    def all_methods(self, depth: int) -> list[Method]:
        return click_methods(depth)

    def scored(self, method: Method, subject: Subject, truth: Truth) -> Record:
        """IoU after each click; where the method fails, 0 after the first."""
        reached, failed = attempted(
            lambda: click_through(subject, truth[0], method.run), [0.0]
        )
        return {"iou": [round(value, 4) for value in reached], **failed}

    def tables(self, results: Results) -> list[Table]:
        best = results.best(self.methods, _held(1))
        return [results.table("Clicks", PROTOCOL, best, _COLUMNS)]

    def figures(self, results: Results) -> "dict[str, Figure]":
        lines = {
            method.name: {
                n: _held(n)(results.scores(method, "all"))
                for n in range(1, MOST_CLICKS + 1)
            }
            for method in results.best(self.methods, _held(1))
        }
        return {"": curves(lines, "clicks", "mean IoU, all pictures")}


def _held(clicks: int) -> Callable[[list[Record]], float]:
    """Mean IoU after a number of clicks; the last value is held."""

    def held(scores: list[Record]) -> float:
        values = [score["iou"][min(clicks, len(score["iou"])) - 1] for score in scores]
        return sum(values) / len(values)

    return held


def _noc(level: float) -> Callable[[list[Record]], str]:
    def noc(scores: list[Record]) -> str:
        counts = [clicks_needed(score["iou"], level) for score in scores]
        return f"{sum(counts) / len(counts):.2f}"

    return noc


def _first(scores: list[Record]) -> list[float]:
    return [score["iou"][0] for score in scores]


def _never(scores: list[Record]) -> int:
    return sum(max(score["iou"]) < 0.85 for score in scores)


_COLUMNS: Final = [
    Column("IoU after 1 click", "choosing half", _held(1)),
    Column("IoU after 1 click", "reporting half", _first, interval=True),
    Column("IoU after 3", "reporting half", _held(3)),
    Column("IoU after 10", "reporting half", _held(10)),
    Column("NoC@85", "reporting half", _noc(0.85)),
    Column("NoC@90", "reporting half", _noc(0.9)),
    Column("0.85 never reached", "reporting half", _never),
    FAILED,
]


def clicks_needed(reached: list[float], level: float) -> int:
    """Number of clicks until an IoU is reached; 20 where it never is (NoC).

    Example:
        >>> clicks_needed([0.5, 0.86, 0.91], 0.85), clicks_needed([0.5], 0.85)
        (2, 20)
    """
    enough = (n for n, value in enumerate(reached, start=1) if value >= level)
    return next(enough, MOST_CLICKS)


@dataclass(frozen=True)
class Clicked:
    """Clicks so far, oldest first.

    Attributes:
        made: (row, column) of each in pixels of the picture, and whether it is on the
            object.
    """

    made: tuple[tuple[Pixel, bool], ...] = ()

    @property
    def positive(self) -> tuple[Pixel, ...]:
        """Those on the object."""
        return tuple(pixel for pixel, on in self.made if on)

    @property
    def negative(self) -> tuple[Pixel, ...]:
        """Those off it."""
        return tuple(pixel for pixel, on in self.made if not on)

    def with_next(
        self, mask: Mask, truth: Int[Tensor, "height width"]
    ) -> "Clicked | None":
        """One click more, at the most interior pixel that is wrong.

        Object pixels that are missed ask for a positive click, other pixels that are
        taken for a negative one; of the two the one deeper inside its region.

        Args:
            mask: The mask so far.
            truth: 0 or 1, -1 where not scored.

        Returns:
            None where nothing is wrong that has not been clicked.

        Sources:
            The protocol of Sofiiuk et al., arXiv 2102.06583, and its predecessors.
        """
        missed, depth_missed = self._deepest((truth == 1) & ~mask)
        taken, depth_taken = self._deepest((truth == 0) & mask)
        if max(depth_missed, depth_taken) == 0:
            return None
        on = depth_missed > depth_taken
        return Clicked((*self.made, (missed if on else taken, on)))

    def _deepest(self, region: Mask) -> tuple[Pixel, float]:
        from scipy.ndimage import distance_transform_edt

        padded = np.pad(region.numpy(), 1)
        depth = np.asarray(distance_transform_edt(padded))[1:-1, 1:-1].copy()
        for (row, column), _ in self.made:
            depth[row, column] = 0
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        return (int(row), int(column)), float(depth[row, column])


def click_through(
    subject: Subject,
    truth: Int[Tensor, "height width"],
    masker: Masker,
    *,
    enough: float = 0.9,
) -> list[float]:
    """IoU after each click, until it is enough or 20 clicks are made.

    Args:
        subject: The picture.
        truth: 0 or 1, -1 where not scored; somewhere 1.
        masker: The method.
        enough: IoU at which the person stops.

    Returns:
        At least one and at most 20 values.
    """
    mask = torch.zeros_like(truth, dtype=torch.bool)
    clicks: Clicked | None = Clicked()
    reached: list[float] = []
    while len(reached) < MOST_CLICKS and (not reached or reached[-1] < enough):
        clicks = clicks.with_next(mask, truth)
        if clicks is None:
            break
        mask = masker(subject, clicks)
        reached.append(iou(mask, truth))
    return reached


def click_methods(depth: int) -> list[Method]:
    """All methods and settings for a model with that many layers."""
    layer_sets = (late(depth, 2), late(depth, 4), late(depth, 4, skip=2))
    family = "control: distance in the picture"
    return [
        Method("default", late(depth, 2), in_session, own=True),
        *(m for layers in dict.fromkeys(layer_sets) for m in _with_layers(layers)),
        Method(family, late(depth, 1), by_nearness, {"nearness": "picture"}),
    ]


def _with_layers(layers: Layers) -> Iterator[Method]:
    at = named(layers)
    yield Method("session, corrected", layers, in_session, setting=at)
    yield Method("session, nearest (M2N2)", layers, by_m2n2, setting=at)
    nearness: dict[str, Mapping[str, Any]] = {
        "out and back": {"nearness": "out_and_back"},
        "single bounce, row select": {"nearness": "row"},
        "single bounce, column select": {"nearness": "column"},
        "multi-bounce pull, n = 2": {"nearness": "pull", "bounces": 2},
        "multi-bounce pull, n = 3": {"nearness": "pull", "bounces": 3},
    }
    for words, settings in nearness.items():
        yield Method(f"nearest click by {words}", layers, by_nearness, settings, at)


def in_session(subject: Subject, clicks: Clicked, *, layers: Layers) -> Mask:
    """The object by clicks as `attnchain.vision.clicks` finds it."""
    return _session(subject, clicks, layers).segment().mask("object")


def by_m2n2(subject: Subject, clicks: Clicked, *, layers: Layers) -> Mask:
    """The object by clicks as `attnchain.methods.m2n2` finds it."""
    return segment_nearest(_session(subject, clicks, layers)).mask("object")


def _session(subject: Subject, clicks: Clicked, layers: Layers) -> Clicks:
    """The session of these clicks, grown from that of all but the last."""
    if not clicks.made:
        return Clicks(subject.part(layers))
    key = ("session", layers, clicks.made)
    return subject.once(key, _grown, subject, clicks, layers)


def _grown(subject: Subject, clicks: Clicked, layers: Layers) -> Clicks:
    *before, ((row, column), on) = clicks.made
    return _session(subject, Clicked(tuple(before)), layers).add(
        column, row, positive=on
    )


def by_nearness(
    subject: Subject,
    clicks: Clicked,
    *,
    layers: Layers,
    nearness: str,
    **options: Any,
) -> Mask:
    """The object by clicks: near a positive one, nearer than to any negative one.

    The nearness to positive clicks is the largest over them, each map scaled to
    [0, 1]; it must reach Otsu's threshold, or what the clicks themselves have. Only
    regions with a positive click are kept.

    Args:
        subject: The picture.
        clicks: At least one positive click.
        layers: The layers read.
        nearness: A name in `baselines.NEARNESS`.
        **options: Its options.
    """
    find = baselines.NEARNESS[nearness]

    def nearest(pixels: tuple[Pixel, ...]) -> Float[Tensor, "height width"]:
        attention, maps = subject.attention, []
        for row, column in pixels:
            patch = attention.grid.patch_at(column, row, **attention.size)
            values = find(subject, patch, layers, **options).float()
            large = enlarge(attention.grid.to_map(values), **attention.size)
            maps.append(unit_range(large))
        return torch.stack(maps).amax(0)

    plus = nearest(clicks.positive)
    level = min([otsu_threshold(plus), *(float(plus[p]) for p in clicks.positive)])
    mask = plus >= level
    if clicks.negative:
        mask &= plus > nearest(clicks.negative)
    for pixel in clicks.positive:
        mask[pixel] = True
    return regions_at(mask, clicks.positive)
