"""The methods under test: what they make of the attention and features of a picture.

Maps of the main object, of nearness to a patch, and cuts of the whole picture. Maps
have one value for each patch, or for each pixel, large on the object.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from attnchain.errors import UnsupportedModelError
from attnchain.evaluate.subject import Layers, Subject, Weights
from attnchain.maps import enlarge
from attnchain.markov import metastable_sets, spectrum
from attnchain.methods import (
    Anchors,
    gated,
    normalised_cut,
    recursive_cut,
    segment_regions,
    similarity,
    strong_edges,
    token_cut,
)
from attnchain.operators import DenseTransition
from attnchain.ranking import token_rank
from attnchain.vision import segment_object, segment_sets

Map = Float[Tensor, " n"]
Segments = Int[Tensor, "height width"]


def default_map(subject: Subject, *, layers: Layers) -> Float[Tensor, "height width"]:
    """What `attnchain segment --foreground` computes, before the mask is cut."""
    return segment_object(subject.part(layers)).maps[0]


def untrained_map(subject: Subject, *, layers: Layers) -> Float[Tensor, "height width"]:
    """The default as it is for a model without a probe: chain and features alone."""
    bare = replace(subject.part(layers), objectness=None)
    return segment_object(bare).maps[0]


def probed(subject: Subject, *, layers: Layers) -> Map:
    """Objectness by the linear probe alone, which was fitted on masks.

    Raises:
        UnsupportedModelError: The model has no probe.
    """
    del layers
    if subject.attention.objectness is None:
        message = f"{subject.attention.model_name} has no probe of objectness"
        raise UnsupportedModelError(message)
    return subject.attention.objectness


def bounced(subject: Subject, *, layers: Layers, weights: Weights, bounces: int) -> Map:
    """Multi-bounce attention to what the class token sees: P^n c."""
    seen = subject.class_row(layers[-1])
    for _ in range(bounces):
        seen = subject.chain(layers, weights).pull(seen)
    return seen


def gated_chain(subject: Subject, *, layers: Layers, features: int) -> DenseTransition:
    """The chain of some layers, its steps counted by features after another one."""
    chain = subject.chain(layers, "lambda2")
    key = ("gated", layers, features)
    return subject.once(key, gated, chain, subject.features[features])


def gated_bounces(
    subject: Subject, *, layers: Layers, features: int, bounces: int
) -> Map:
    """Multi-bounce attention in `gated_chain`."""
    seen = subject.class_row(layers[-1])
    for _ in range(bounces):
        seen = gated_chain(subject, layers=layers, features=features).pull(seen)
    return seen


def gated_eigenvector(subject: Subject, *, layers: Layers, features: int) -> Map:
    """The slowest function of `gated_chain`, its sign set by the class token's view."""
    chain = gated_chain(subject, layers=layers, features=features)
    return signed(subject, spectrum(chain, 2).basis[:, 1], layers[-1])


def second_eigenvector(subject: Subject, *, layers: Layers, weights: Weights) -> Map:
    """The slowest function of the chain, its sign set by the class token's view."""
    slowest = spectrum(subject.chain(layers, weights), 2).basis[:, 1]
    return signed(subject, slowest, layers[-1])


def signed(subject: Subject, values: Map, layer: int) -> Map:
    """A map up to sign, turned so that it rises with the class token's view."""
    seen = subject.class_row(layer)
    rising = (values - values.mean()) @ (seen - seen.mean()).to(values.dtype)
    return values.float() if rising >= 0 else -values.float()


def seen_parts(subject: Subject, labels: Int[Tensor, " n"], layer: int) -> Map:
    """The parts that the class token looks at more than on average."""
    seen, parts = subject.class_row(layer), one_hot(labels).float()
    mean = (seen @ parts) / parts.sum(0)
    return parts[:, mean > seen.mean()].sum(1)


def ranked(subject: Subject, *, layers: Layers) -> Map:
    """Incoming TokenRank at damping 0.99."""
    return token_rank(subject.chain(layers, "lambda2")).distribution.float()


def column_sum(subject: Subject, *, layers: Layers) -> Map:
    """How much attention every patch gets, mean over heads."""
    return subject.chain(layers).matrix.sum(0)


def selected(subject: Subject, *, layers: Layers, column: bool) -> Map:
    """One bounce from the patch the class token looks at most, row or column."""
    start = int(subject.class_row(layers[-1]).argmax())
    matrix = subject.chain(layers).matrix
    return matrix[:, start] if column else matrix[start]


def class_attention(subject: Subject, *, layers: Layers) -> Map:
    """Where the class token of the last of the layers looks, mean over heads."""
    return subject.class_row(layers[-1])


def rollout(subject: Subject, *, layers: Layers) -> Map:
    """Attention rollout from the class token through all layers.

    In each layer the walker stays with probability 1/2. The class token gets nothing
    back from patches and does not look at itself.

    Sources:
        Abnar and Zuidema, Quantifying attention flow in transformers, 2020.
    """
    on_class, on_patches = 1.0, torch.zeros(subject.attention.grid.n_patches)
    for layer in reversed(layers):
        onward = subject.chain((layer,)).push(on_patches)
        arriving = on_class * subject.class_row(layer)
        on_patches = (on_patches + onward + arriving) / 2
        on_class /= 2
    return on_patches


def cut_by_paper(
    subject: Subject, *, layers: Layers, of_keys: bool, threshold: float | None
) -> Map:
    """TokenCut as published: halved at the mean, the region around the seed."""
    cosines = subject.cosines(layers[-1])
    if of_keys:
        keys = subject.attention.heads[layers[-1]].k
        cosines = similarity(keys.transpose(0, 1).flatten(1).float())
    rows = subject.attention.grid.rows
    return token_cut(cosines, rows=rows, threshold=threshold).float()


def cut_signed(subject: Subject, *, layers: Layers, threshold: float | None) -> Map:
    """The eigenvector of the normalised cut, its sign set by the class token."""
    edges = strong_edges(subject.cosines(layers[-1]), threshold)
    return signed(subject, normalised_cut(edges), layers[-1])


def recursive_parts(subject: Subject, *, layers: Layers) -> Map:
    """Parts of the recursive cut the class token looks at more than on average."""
    parts = recursive_cut(subject.cosines(layers[-1]))
    return seen_parts(subject, parts, layers[-1])


def clustered(subject: Subject, *, layers: Layers, count: int) -> Map:
    """Clusters of features the class token looks at more than on average."""
    parts = k_means(subject.features[layers[-1]], count)
    return seen_parts(subject, parts, layers[-1])


def out_and_back(subject: Subject, patch: int, layers: Layers) -> Map:
    """The walk one step out from the patch and one back."""
    return subject.out_and_back(layers, "uniform").matrix[patch]


def row(subject: Subject, patch: int, layers: Layers) -> Map:
    """Where the patch looks."""
    return subject.chain(layers).matrix[patch]


def column(subject: Subject, patch: int, layers: Layers) -> Map:
    """Who looks at the patch."""
    return subject.chain(layers).matrix[:, patch]


def pull(subject: Subject, patch: int, layers: Layers, *, bounces: int) -> Map:
    """Probability of being at the patch after some bounces."""
    chain = subject.chain(layers)
    values = torch.zeros(chain.n_states)
    values[patch] = 1
    for _ in range(bounces):
        values = chain.pull(values)
    return values


def closeness(subject: Subject, patch: int, layers: Layers) -> Map:
    """Minus the distance in the picture, whatever it shows."""
    grid = subject.attention.grid
    numbers = torch.arange(grid.n_patches)
    down = numbers // grid.columns - patch // grid.columns
    across = numbers % grid.columns - patch % grid.columns
    return -(down**2 + across**2).float().sqrt()


NEARNESS: Final[Mapping[str, Callable[..., Map]]] = {
    "out_and_back": out_and_back,
    "row": row,
    "column": column,
    "pull": pull,
    "picture": closeness,
}
"""From a subject, a patch and layers to the nearness of all patches."""


def default_segments(subject: Subject, *, layers: Layers) -> Segments:
    """What `attnchain segment` computes."""
    return segment_sets(subject.part(layers)).labels


def metastable_segments(
    subject: Subject, *, layers: Layers, count: int | None
) -> Segments:
    """Metastable sets of the out-and-back chain, uniform heads."""
    chain = subject.out_and_back(layers, "uniform")
    return drawn(subject, metastable_sets(chain, count).memberships)


def merged_segments(
    subject: Subject, *, layers: Layers, anchors: Anchors, threshold: float
) -> Segments:
    """Attention maps merged from anchors, as `attnchain.methods.diffseg` does it."""
    part = subject.part(layers)
    return segment_regions(part, anchors=anchors, threshold=threshold).labels


def clustered_segments(subject: Subject, *, layers: Layers, count: int) -> Segments:
    """Clusters of the features after the last of the layers."""
    parts = k_means(subject.features[layers[-1]], count)
    return drawn(subject, one_hot(parts))


def recursive_segments(
    subject: Subject, *, layers: Layers, most_cost: float
) -> Segments:
    """Parts of the recursive cut of the features after the last of the layers."""
    parts = recursive_cut(subject.cosines(layers[-1]), most_cost=most_cost)
    return drawn(subject, one_hot(parts))


def tiles(subject: Subject, *, layers: Layers, count: int) -> Segments:
    """Equal tiles, count down and across, whatever the picture shows."""
    size = subject.attention.size
    down = torch.arange(size["height"]) * count // size["height"]
    across = torch.arange(size["width"]) * count // size["width"]
    return down[:, None] * count + across


def drawn(subject: Subject, memberships: Float[Tensor, "n m"]) -> Segments:
    """The part of largest membership at every pixel, memberships enlarged."""
    attention = subject.attention
    maps = attention.grid.to_map(memberships.T.float())
    return enlarge(maps, **attention.size).argmax(0)


def k_means(features: Float[Tensor, "n width"], count: int) -> Int[Tensor, " n"]:
    """Clusters of unit-length features, from one fixed random start.

    Args:
        features: One row for each patch.
        count: Number of clusters.

    Returns:
        Number of the cluster of each patch.
    """
    from scipy.cluster.vq import kmeans2

    unit = normalize(features, dim=-1).double().numpy()
    options = {"minit": "++", "missing": "raise", "seed": 0}
    return torch.from_numpy(kmeans2(unit, count, **options)[1]).long()
