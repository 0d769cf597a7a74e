"""Ways to cut a whole picture into regions, with their settings."""

from collections.abc import Iterator
from functools import partial
from typing import get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attnchain.evaluate.method import Method, named
from attnchain.evaluate.objects import one_hot
from attnchain.evaluate.subject import Layers, Subject
from attnchain.maps import enlarge
from attnchain.markov import metastable_sets
from attnchain.methods.cuts import k_means, recursive_cut
from attnchain.methods.diffseg import Anchors, segment_regions
from attnchain.vision import DEFAULT_LAYERS
from attnchain.vision.segments import segment_automatic

COUNTS = (3, 4, 5, 6, 8)


def region_methods(depth: int) -> list[Method]:
    """All methods and settings for a model with that many layers."""
    top = depth - 1
    late = tuple(range(max(top - 1, 0), depth))
    four = tuple(range(max(top - 3, 0), depth))
    below = tuple(range(max(top - 3, 0), max(top, 1)))
    return [
        Method("default", "default", late, default),
        *_sets(late),
        *_sets(four),
        *_sets(below),
        *_merged(late),
        *_merged(four),
        *(m for layer in range(max(top - 3, 0), depth) for m in _of_features(layer)),
        Method("one region", "control: one region", (top,), partial(tiles, count=1)),
        Method("nine tiles", "control: nine tiles", (top,), partial(tiles, count=3)),
    ]


def _sets(layers: Layers) -> Iterator[Method]:
    for count in COUNTS:
        family = "metastable sets, fixed number"
        name = f"{family}, {named(layers)}, m = {count}"
        run = partial(metastable, layers=layers, count=count)
        yield Method(name, family, layers, run)
    family = "metastable sets, number by the gap"
    run = partial(metastable, layers=layers, count=None)
    yield Method(f"{family}, {named(layers)}", family, layers, run)


def _merged(layers: Layers) -> Iterator[Method]:
    for anchors in get_args(Anchors):
        family = f"merged maps (DiffSeg's), anchors by {anchors.replace('_', ' ')}"
        for threshold in (0.5, 1.0, 1.5):
            run = partial(merged, layers=layers, anchors=anchors, threshold=threshold)
            name = f"{family}, {named(layers)}, threshold {threshold}"
            yield Method(name, family, layers, run)


def _of_features(layer: int) -> Iterator[Method]:
    for count in COUNTS:
        family = "k-means on features"
        run = partial(clustered, layer=layer, count=count)
        yield Method(f"{family}, {layer}, k = {count}", family, (layer,), run)
    family = "recursive cut (DiffCut's)"
    for cost in (0.5, 0.7, 0.85):
        run = partial(recursive, layer=layer, most_cost=cost)
        yield Method(f"{family}, {layer}, cost < {cost}", family, (layer,), run)


def default(subject: Subject) -> Int[Tensor, "height width"]:
    """What `attnchain segment` computes."""
    return segment_automatic(subject.part(DEFAULT_LAYERS)).labels


def metastable(
    subject: Subject, *, layers: Layers, count: int | None
) -> Int[Tensor, "height width"]:
    """Metastable sets of the out-and-back chain, uniform heads."""
    chain = subject.out_and_back(layers, "uniform")
    return drawn(subject, metastable_sets(chain, count).memberships)


def merged(
    subject: Subject, *, layers: Layers, anchors: Anchors, threshold: float
) -> Int[Tensor, "height width"]:
    """Attention maps merged from anchors, as `attnchain.methods.diffseg` does it."""
    part = subject.part(layers)
    return segment_regions(part, anchors=anchors, threshold=threshold).labels


def clustered(
    subject: Subject, *, layer: int, count: int
) -> Int[Tensor, "height width"]:
    """Clusters of the features after a layer."""
    return drawn(subject, one_hot(k_means(subject.features[layer], count)))


def recursive(
    subject: Subject, *, layer: int, most_cost: float
) -> Int[Tensor, "height width"]:
    """Parts of the recursive cut of the features after a layer."""
    labels = recursive_cut(subject.cosines(layer), most_cost=most_cost)
    return drawn(subject, one_hot(labels))


def tiles(subject: Subject, *, count: int) -> Int[Tensor, "height width"]:
    """Equal tiles, count down and across, whatever the picture shows."""
    size = subject.attention.size
    down = torch.arange(size["height"]) * count // size["height"]
    across = torch.arange(size["width"]) * count // size["width"]
    return down[:, None] * count + across


def drawn(
    subject: Subject, memberships: Float[Tensor, "n m"]
) -> Int[Tensor, "height width"]:
    """The part of largest membership at every pixel, memberships enlarged."""
    attention = subject.attention
    maps = attention.grid.to_map(memberships.T.float())
    return enlarge(maps, **attention.size).argmax(0)
