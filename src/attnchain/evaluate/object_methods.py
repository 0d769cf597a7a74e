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
    for last in (True, False):
        every = late_sets(depth, last=last)
        for layers in every:
            methods += _bounces(layers, MOST_BOUNCES if layers == late else 3)
        for layers in every[1:] if last else (*every[::2], every[-1]):
            methods += _spectral(layers)
            methods += _attention(layers)
            methods += [] if last else _swept(layers)
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


def _spectral(layers: Layers) -> Iterator[Method]:
    for weights, label in _WEIGHTS:
        run = partial(objects.second_eigenvector, layers=layers, weights=weights)
        family = "second right eigenvector"
        yield Method(f"{family}, {named(layers)}, {label}", family, layers, run)
    run = partial(objects.out_and_back, layers=layers, weights="lambda2")
    family = "out and back from the class token's view"
    yield Method(f"{family}, {named(layers)}", family, layers, run)
    family = "metastable sets the class token sees"
    run = partial(objects.metastable, layers=layers)
    yield Method(f"{family}, {named(layers)}", family, layers, run)


def _attention(layers: Layers) -> Iterator[Method]:
    runs = {
        "TokenRank, incoming": partial(objects.ranked, direction="incoming"),
        "TokenRank, outgoing": partial(objects.ranked, direction="outgoing"),
        "column sum": objects.column_sum,
        "single bounce, row select": partial(objects.selected, column=False),
        "single bounce, column select": partial(objects.selected, column=True),
    }
    for family, run in runs.items():
        method = partial(run, layers=layers)
        yield Method(f"{family}, {named(layers)}", family, layers, method)


def _swept(layers: Layers) -> Iterator[Method]:
    for family, run in (
        ("multi-bounce, n = 2, sweep cut", partial(objects.bounced, bounces=2)),
        ("out and back, sweep cut", objects.out_and_back),
        ("second right eigenvector, sweep cut", objects.second_eigenvector),
        ("second right eigenvector, out and back, sweep cut", _BOTH_WAYS),
    ):
        cut = partial(objects.swept, layers=layers, run=run)
        yield Method(f"{family}, {named(layers)}", family, layers, cut)
    family = "second right eigenvector, out and back"
    run = partial(_BOTH_WAYS, layers=layers, weights="uniform")
    yield Method(f"{family}, {named(layers)}", family, layers, run)


_BOTH_WAYS = partial(objects.second_eigenvector, both_ways=True)


def _layerwise(depth: int) -> Iterator[Method]:
    """Methods that read one layer: the last four, the cheap ones the last six."""
    for layer in range(max(depth - 6, 0), depth):
        late = layer >= depth - 4
        for family, (every, variants) in _LAYERWISE.items():
            for label, run in variants.items() if late or every else ():
                name = f"{family}, {layer}{label}"
                yield Method(name, family, (layer,), partial(run, layer=layer))


def _by_edges(run: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    edges = {", cosine > 0.2": 0.2, ", cosine > median": None}
    return {label: partial(run, threshold=level) for label, level in edges.items()}


_LAYERWISE: dict[str, tuple[bool, dict[str, Callable[..., Any]]]] = {
    "class-token attention": (True, {"": objects.class_attention}),
    "TokenCut (features)": (
        True,
        _by_edges(partial(objects.cut_by_paper, of_keys=False)),
    ),
    "TokenCut (keys)": (False, _by_edges(partial(objects.cut_by_paper, of_keys=True))),
    "normalised cut, class-token sign, Otsu": (True, _by_edges(objects.cut_signed)),
    "recursive cut (DiffCut's)": (False, {"": objects.recursive_parts}),
    "k-means on features": (
        True,
        {f", k = {k}": partial(objects.clustered, count=k) for k in (2, 4)},
    ),
}
