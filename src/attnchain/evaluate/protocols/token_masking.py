"""Token masking: which patches does a classification need?"""

from typing import TYPE_CHECKING, Any, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from attnchain.errors import DataSetError
from attnchain.evaluate import baselines
from attnchain.evaluate.datasets import Truth
from attnchain.evaluate.method import Method, late
from attnchain.evaluate.protocol import Protocol
from attnchain.evaluate.report import (
    Record,
    Results,
    Table,
    curves,
    mean_and_interval,
)
from attnchain.evaluate.subject import Layers, Subject, read_subject, watched_layers

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

SHARES: Final = (0.2, 0.4, 0.6, 0.8, 0.9)
PROTOCOL: Final = (
    "token masking: a share of the patches is painted in the mean colour and the "
    "model runs again; the picture's class (that of most labelled pixels, background "
    "left out) is told by the nearest class mean, by the cosine of class tokens less "
    "their mean, leaving the picture itself out; only classes of two pictures or more "
    "are scored. AUC: accuracy over the share masked, 0 to 0.9, divided by 0.9"
)
ORDERS: Final = ("most important first", "least important first")


class MaskingProtocol(Protocol):
    """Classification while patches are masked in the order of a ranking.

    Class tokens are read after the third layer from the end: of the packaged model the
    last one or two layers were tuned to another task.
    """

    name = "masking"
    kinds = ("classes",)
    size = 280

    def all_methods(self, depth: int) -> list[Method]:
        layers = late(depth, 2)
        return [
            Method("TokenRank, incoming", layers, baselines.ranked),
            Method("column sum", layers, baselines.column_sum),
            Method("class-token attention", layers, baselines.class_attention),
            Method("random", layers, at_random),
        ]

    def scores(self, picture: "Image", truth: Truth) -> dict[str, Any]:
        """Class tokens under all maskings, and the class of the picture."""
        label = picture_class(truth)
        subject = read_subject(picture, self.model, size=self.pixels)
        pixels = self.model.pixels(picture, size=self.pixels)
        found: dict[str, Any] = {"label": label, "whole": self._tokens(pixels)[0]}
        for method in self.methods:
            order = method.run(subject).argsort(descending=True, stable=True)
            for direction, ranks in zip(ORDERS, (order, order.flip(0)), strict=True):
                masked = [masked_pixels(pixels, ranks, share) for share in SHARES]
                tokens = self._tokens(torch.cat(masked))
                found.setdefault(method.name, {})[direction] = tokens
        return found

    def _tokens(self, pixels: Float[Tensor, "b 3 h w"]) -> list[list[float]]:
        with torch.no_grad(), watched_layers(self.model.model) as states:
            self.model.model(pixels)
        state = states[max(len(states) - 3, 0)]
        tokens = state[:, 0] if self.model.prefix else state.mean(1)
        return [[round(float(x), 4) for x in token] for token in tokens]

    def tables(self, results: Results) -> list[Table]:
        return [masking_table([m.name for m in self.methods], results.records)]

    def figures(self, results: Results) -> "dict[str, Figure]":
        hits = right_answers([m.name for m in self.methods], results.records)
        if not hits:
            return {}
        lines = {
            f"{name}, {direction}": {
                round(100 * share): sum(h[i] for h in answers) / len(answers)
                for i, share in enumerate((0.0, *SHARES))
            }
            for (name, direction), answers in hits.items()
        }
        return {"": curves(lines, "patches masked, %", "accuracy", paired=True)}


def at_random(subject: Subject, *, layers: Layers) -> Float[Tensor, " n"]:
    """The same random order for all pictures of one grid."""
    n = subject.attention.grid.n_patches
    return torch.rand(n, generator=torch.Generator().manual_seed(n))


def picture_class(truth: Truth) -> int:
    """The class of most labelled pixels, background (0) left out.

    Raises:
        DataSetError: There is no other class.
    """
    labelled = truth[truth > 0]
    if not len(labelled):
        raise DataSetError("the picture has no class: all is background or void")
    return int(labelled.mode().values)


def masked_pixels(
    pixels: Float[Tensor, "1 3 height width"], ranks: Int[Tensor, " n"], share: float
) -> Float[Tensor, "1 3 height width"]:
    """The first patches of an order painted in the mean colour, which is zero here.

    Args:
        pixels: Normalised pixels.
        ranks: Patches in the order they are masked.
        share: How many of them, as a share of all.
    """
    height, width = pixels.shape[-2:]
    side = round((height * width / len(ranks)) ** 0.5)
    keep = torch.ones(len(ranks))
    keep[ranks[: round(share * len(ranks))]] = 0
    grid = keep.view(height // side, width // side)
    return pixels * grid.repeat_interleave(side, 0).repeat_interleave(side, 1)


def right_answers(
    names: list[str], records: list[Record]
) -> dict[tuple[str, str], list[list[bool]]]:
    """For each ranking and direction, for each picture scored: right at each share?"""
    scores = [record["scores"] for record in records]
    labels = torch.tensor([score["label"] for score in scores])
    whole = torch.tensor([score["whole"] for score in scores])
    hits: dict[tuple[str, str], list[list[bool]]] = {}
    for i, score in enumerate(scores):
        others = torch.arange(len(labels)) != i
        if not (labels[others] == labels[i]).any():
            continue
        known = nearest_class_mean(whole[others], labels[others])
        for name in names:
            for direction in ORDERS:
                tokens = torch.tensor([score["whole"], *score[name][direction]])
                right = (known(tokens) == labels[i]).tolist()
                hits.setdefault((name, direction), []).append(right)
    return hits


def nearest_class_mean(
    tokens: Float[Tensor, "m width"], labels: Int[Tensor, " m"]
) -> "NearestClassMean":
    """A classifier by the cosine to class means, the overall mean taken off."""
    middle = tokens.mean(0)
    unit = normalize(tokens - middle, dim=-1)
    classes = labels.unique()
    means = torch.stack([unit[labels == c].mean(0) for c in classes])
    return NearestClassMean(middle, classes, normalize(means, dim=-1))


class NearestClassMean:
    """See `nearest_class_mean`."""

    def __init__(self, middle: Tensor, classes: Tensor, means: Tensor) -> None:
        self.middle, self.classes, self.means = middle, classes, means

    def __call__(self, tokens: Float[Tensor, "m width"]) -> Int[Tensor, " m"]:
        """The class of each token."""
        unit = normalize(tokens - self.middle, dim=-1)
        return self.classes[(unit @ self.means.T).argmax(-1)]


def area(right: list[bool]) -> float:
    """Area under accuracy over the share masked, divided by the largest share.

    Example:
        >>> area([True] * 6)
        1.0
    """
    shares = torch.tensor([0.0, *SHARES], dtype=torch.float64)
    heights = torch.tensor(right, dtype=torch.float64)
    return round(float(torch.trapezoid(heights, shares) / shares[-1]), 12)


def masking_table(names: list[str], records: list[Record]) -> Table:
    """Area under the curve of every ranking, both directions."""
    hits = right_answers(names, records)
    rows = tuple(
        (name, *(_areas(hits.get((name, direction), [])) for direction in ORDERS))
        for name in names
    )
    columns = (
        "ranking",
        "AUC, most important masked first (lower is better) [95 %]",
        "AUC, least important masked first (higher is better) [95 %]",
    )
    note = _counted(next(iter(hits.values()), []), len(records))
    title = "Faithfulness of token rankings"
    return Table(title, f"{PROTOCOL}.", columns, rows, (note,))


def _counted(answers: list[list[bool]], total: int) -> str:
    """How many pictures could be scored."""
    if not answers:
        return (
            f"None of the {total} pictures is of the class of another one, so none can "
            "be scored: take more pictures."
        )
    whole = sum(right[0] for right in answers)
    return (
        f"{len(answers)} of {total} pictures are of a class with another picture; "
        f"{whole} of them are right with nothing masked."
    )


def _areas(answers: list[list[bool]]) -> str | None:
    """Mean area and its interval; None where no picture was scored."""
    return mean_and_interval([area(right) for right in answers]) if answers else None
