"""The methods compared on the main object, with their settings."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from attnchain.evaluate import objects
from attnchain.evaluate.method import Method, late_sets, named
from attnchain.evaluate.subject import Layers, Weights

MOST_BOUNCES = 10
_WEIGHTS: tuple[tuple[Weights, str], ...] = (
    ("lambda2", "λ₂ weights"),
    ("uniform", "uniform heads"),
)


def object_methods(depth: int) -> list[Method]:
    """All methods and settings for a model with that many layers."""
    late = (depth - 2, depth - 1)
    methods = [Method("default", "default", late, objects.default)]
    with_last = late_sets(depth, last=True)
    below = late_sets(depth, last=False)[:2]
    for layers in (*with_last, *below):
        methods += _bounces(layers, MOST_BOUNCES if layers == late else 3)
    for layers in (*with_last[1:], *below):
        methods += _gated(layers, features=max(depth - 2, 0))
        methods += _attention(layers)
    for layers in (*with_last[1:2], *below[:1]):
        methods += _spectral(layers, features=max(depth - 2, 0))
    methods += _layerwise(depth)
    every_layer = tuple(range(depth))
    family = "attention rollout"
    return [*methods, Method(family, family, every_layer, objects.rollout)]


def _bounces(layers: Layers, most: int) -> Iterator[Method]:
    for weights, label in _WEIGHTS:
        for n in range(1, most + 1):
            run = partial(objects.bounced, layers=layers, weights=weights, bounces=n)
            family = f"multi-bounce, {label}"
            yield Method(f"{family}, {named(layers)}, n = {n}", family, layers, run)


def _gated(layers: Layers, *, features: int) -> Iterator[Method]:
    """Steps gated by the features that the last layer reads."""
    gate = {"layers": layers, "weights": "lambda2", "features": features}
    for n in (5, 10, 20):
        run = partial(objects.gated_bounces, bounces=n, **gate)
        family = "multi-bounce, gated by features"
        yield Method(f"{family}, {named(layers)}, n = {n}", family, layers, run)


def _spectral(layers: Layers, *, features: int) -> Iterator[Method]:
    for weights, label in _WEIGHTS:
        run = partial(objects.second_eigenvector, layers=layers, weights=weights)
        family = "second right eigenvector"
        yield Method(f"{family}, {named(layers)}, {label}", family, layers, run)
    gate = {"layers": layers, "weights": "lambda2", "features": features}
    run = partial(objects.gated_eigenvector, **gate)
    family = "second right eigenvector, gated by features"
    yield Method(f"{family}, {named(layers)}", family, layers, run)


def _attention(layers: Layers) -> Iterator[Method]:
    runs = {
        "TokenRank, incoming": objects.ranked,
        "column sum": objects.column_sum,
        "single bounce, row select": partial(objects.selected, column=False),
        "single bounce, column select": partial(objects.selected, column=True),
    }
    for family, run in runs.items():
        method = partial(run, layers=layers)
        yield Method(f"{family}, {named(layers)}", family, layers, method)


def _layerwise(depth: int) -> Iterator[Method]:
    """Methods that read one layer: each of the last four."""
    for layer in range(max(depth - 4, 0), depth):
        for family, variants in _LAYERWISE.items():
            for label, run in variants.items():
                name = f"{family}, {layer}{label}"
                yield Method(name, family, (layer,), partial(run, layer=layer))


def _by_edges(run: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    edges = {", cosine > 0.2": 0.2, ", cosine > median": None}
    return {label: partial(run, threshold=level) for label, level in edges.items()}


_LAYERWISE: dict[str, dict[str, Callable[..., Any]]] = {
    "class-token attention": {"": objects.class_attention},
    "TokenCut (features)": _by_edges(partial(objects.cut_by_paper, of_keys=False)),
    "TokenCut (keys)": _by_edges(partial(objects.cut_by_paper, of_keys=True)),
    "normalised cut, class-token sign, Otsu": _by_edges(objects.cut_signed),
    "recursive cut (DiffCut's)": {"": objects.recursive_parts},
    "k-means on features": {
        f", k = {k}": partial(objects.clustered, count=k) for k in (2, 4)
    },
}
