"""Ways to find the main object from the attention and features of one picture.

Each gives a map: one value for each patch, or for each pixel, large on the object.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attnchain.evaluate.subject import Layers, Subject, Weights
from attnchain.markov import spectrum
from attnchain.methods.cuts import (
    k_means,
    normalised_cut,
    recursive_cut,
    similarity,
    strong_edges,
    token_cut,
)
from attnchain.methods.gated import gated
from attnchain.operators import DenseTransition
from attnchain.ranking import token_rank
from attnchain.vision import DEFAULT_LAYERS
from attnchain.vision.segments import segment_foreground

Map = Float[Tensor, " n"]


def default(subject: Subject) -> Float[Tensor, "height width"]:
    """What `attnchain segment --foreground` computes, before the mask is cut."""
    return segment_foreground(subject.part(DEFAULT_LAYERS)).maps[0]


def bounced(subject: Subject, *, layers: Layers, weights: Weights, bounces: int) -> Map:
    """Multi-bounce attention to what the class token sees: P^n c."""
    seen = subject.class_row(layers[-1])
    for _ in range(bounces):
        seen = subject.chain(layers, weights).pull(seen)
    return seen


def gated_chain(
    subject: Subject, *, layers: Layers, weights: Weights, features: int
) -> DenseTransition:
    """The chain of some layers, its steps counted by features after another one."""
    key = ("gated", layers, weights, features)
    chain = subject.chain(layers, weights)
    return subject.once(key, gated, chain, subject.features[features])


def gated_bounces(subject: Subject, *, bounces: int, **gate: Any) -> Map:
    """Multi-bounce attention in `gated_chain`; `gate` are its options."""
    seen = subject.class_row(gate["layers"][-1])
    for _ in range(bounces):
        seen = gated_chain(subject, **gate).pull(seen)
    return seen


def gated_eigenvector(subject: Subject, **gate: Any) -> Map:
    """The slowest function of `gated_chain`, its sign set by the class token's view."""
    slowest = spectrum(gated_chain(subject, **gate), 2).basis[:, 1]
    return signed(subject, slowest, gate["layers"][-1])


def second_eigenvector(subject: Subject, *, layers: Layers, weights: Weights) -> Map:
    """The slowest function of the chain, its sign set by the class token's view."""
    slowest = spectrum(subject.chain(layers, weights), 2).basis[:, 1]
    return signed(subject, slowest, layers[-1])


def signed(subject: Subject, values: Map, layer: int) -> Map:
    """A map up to sign, turned so that it rises with the class token's view."""
    seen = subject.class_row(layer)
    rising = (values - values.mean()) @ (seen - seen.mean()).to(values.dtype)
    return values.float() if rising >= 0 else -values.float()


def seen_parts(subject: Subject, memberships: Float[Tensor, "n m"], layer: int) -> Map:
    """Membership in the parts the class token looks at more than on average."""
    seen = subject.class_row(layer)
    mean = (seen @ memberships) / memberships.sum(0)
    return memberships[:, mean > seen.mean()].sum(1)


def one_hot(labels: Int[Tensor, " n"]) -> Float[Tensor, "n m"]:
    """Crisp parts as memberships."""
    return torch.nn.functional.one_hot(labels).float()


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


def class_attention(subject: Subject, *, layer: int) -> Map:
    """Where the class token looks, mean over heads."""
    return subject.class_row(layer)


def rollout(subject: Subject) -> Map:
    """Attention rollout from the class token through all layers.

    In each layer the walker stays with probability 1/2. The class token gets nothing
    back from patches and does not look at itself.

    Sources:
        Abnar and Zuidema, Quantifying attention flow in transformers, 2020.
    """
    n = subject.attention.grid.n_patches
    on_class, on_patches = 1.0, torch.zeros(n)
    for layer in reversed(range(len(subject.attention.layers))):
        onward = subject.chain((layer,)).push(on_patches)
        arriving = on_class * subject.class_row(layer)
        on_patches = (on_patches + onward + arriving) / 2
        on_class /= 2
    return on_patches


def keys(subject: Subject, layer: int) -> Float[Tensor, "n width"]:
    """The keys of all heads of a layer, side by side."""
    return subject.attention.heads[layer].k.transpose(0, 1).flatten(1).float()


def cut_by_paper(
    subject: Subject, *, layer: int, of_keys: bool, threshold: float | None
) -> Map:
    """TokenCut as published: halved at the mean, the region around the seed."""
    cosines = similarity(keys(subject, layer)) if of_keys else subject.cosines(layer)
    rows = subject.attention.grid.rows
    return token_cut(cosines, rows=rows, threshold=threshold).float()


def cut_signed(subject: Subject, *, layer: int, threshold: float | None) -> Map:
    """The eigenvector of the normalised cut, its sign set by the class token."""
    vector = normalised_cut(strong_edges(subject.cosines(layer), threshold))
    return signed(subject, vector, layer)


def recursive_parts(subject: Subject, *, layer: int) -> Map:
    """Parts of the recursive cut the class token looks at more than on average."""
    return seen_parts(subject, one_hot(recursive_cut(subject.cosines(layer))), layer)


def clustered(subject: Subject, *, layer: int, count: int) -> Map:
    """Clusters of features the class token looks at more than on average."""
    return seen_parts(subject, one_hot(k_means(subject.features[layer], count)), layer)
