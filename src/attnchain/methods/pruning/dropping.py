"""A vision transformer that goes on with fewer tokens after one of its layers."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from attnchain.capturing import AttentionRecord, capture, fused_attention
from attnchain.checks import check_count, check_fraction
from attnchain.errors import (
    ArgumentError,
    NothingCapturedError,
    ShapeError,
    UnsupportedModelError,
)
from attnchain.methods.pruning.token_scores import AbstractTokenScore, LayerReading
from attnchain.methods.pruning.vit_layers import find_layers
from attnchain.replacing import replaced


class PrunedTokens:
    """What the last run of a pruned model kept.

    Attributes:
        kept: Patches that stayed in each picture, `(pictures, k)`, ascending; 0 is the
            first one after the prefix, of those that entered the layer. None before
            the model has run.
    """

    kept: Int[Tensor, "pictures k"] | None = None


@contextmanager
def prune(
    model: nn.Module, *, layer: int, keep: float, score: AbstractTokenScore
) -> Generator[PrunedTokens]:
    """Drops patches after a layer: the layers behind it really run on fewer tokens.

    Class and register tokens stay, and so do the positions already added to the
    patches. The last hidden state has as many tokens as were kept; poolers and
    classifiers work on these. Blocks can be nested, to prune after several layers.
    Eager attention is switched to fused attention inside the block.

    Args:
        model: A ViT of transformers (ViT, DeiT, DINOv2 also with registers, the vision
            towers of CLIP and SigLIP) or of timm, or what contains one.
        layer: Layer, counted from 0, whose attention is scored and after which the
            patches leave; any but the last.
        keep: Share of the patches that stays, in (0, 1]; rounded to whole patches.
        score: Says which stay.

    Yields:
        `PrunedTokens`, which says what the last run kept.

    Raises:
        UnsupportedModelError: The layers are not of a known kind, there are several
            towers of them, or the model lays its tokens back on the grid.
        ArgumentError: No such layer, a share outside its range or that leaves no patch.
        ShapeError: A score that chose other patches than it was asked for.
        NothingCapturedError: The block ended, and the model was not run.

    Example:
        >>> from transformers import ViTConfig, ViTModel
        >>> from attnchain.methods import ColumnSumScore, prune
        >>> size = dict(hidden_size=8, num_attention_heads=2, intermediate_size=8)
        >>> config = ViTConfig(**size, num_hidden_layers=3, image_size=64)
        >>> model = ViTModel(config).eval()
        >>> with prune(model, layer=0, keep=0.5, score=ColumnSumScore()) as pruned:
        ...     states = model(torch.randn(2, 3, 64, 64)).last_hidden_state
        >>> states.shape, pruned.kept.shape
        (torch.Size([2, 9, 8]), torch.Size([2, 8]))
    """
    layers, prefix = find_layers(model)
    check_count(layer, "layer", low=0, high=len(layers) - 2, meaning="but the last")
    check_fraction(keep, "keep")
    if not isinstance(score, AbstractTokenScore):
        message = f"score must be an AbstractTokenScore, but is {score!r}"
        raise ArgumentError(message)
    block, found = layers[layer], PrunedTokens()
    forward = block.forward

    def run(*args: Any, **kwargs: Any) -> Tensor:
        states, reading = _read(block, forward, args, kwargs, prefix)
        found.kept = _choose(score, reading, keep)
        return _gather(states, found.kept, prefix)

    with fused_attention(model), replaced(block, "forward", run):
        yield found
    if found.kept is None:
        message = "the model was not run inside the block, so nothing was pruned"
        raise NothingCapturedError(message)


def _read(
    block: nn.Module, forward: Callable, args: Any, kwargs: Any, prefix: int
) -> tuple[Tensor, LayerReading]:
    """The layer's own output, and the attention it was made with."""
    given = [x for x in (*args[1:], *kwargs.values()) if isinstance(x, Tensor)]
    if given:
        message = (
            f"{type(block).__name__} was given a mask or another tensor beside its "
            f"tokens, which cannot be pruned with them; run the model without"
        )
        raise UnsupportedModelError(message)
    with capture(block) as captured:
        states = forward(*args, **kwargs)
    record = captured[0]
    if not isinstance(record, AttentionRecord):
        message = f"{type(block).__name__} computes attention by hand: no keys to read"
        raise UnsupportedModelError(message)
    if states.shape[1] != record.shape[-1]:
        message = "this layer is pruned already; nested blocks prune different layers"
        raise ArgumentError(message)
    with torch.no_grad():
        return states, LayerReading(record.probabilities(), record.k, prefix)


@torch.no_grad()
def _choose(score: AbstractTokenScore, reading: LayerReading, keep: float) -> Tensor:
    """The patches that stay; raises unless they are as many as were asked for."""
    pictures, patches = len(reading.keys), reading.keys.shape[2] - reading.prefix
    count = round(keep * patches)
    if not count:
        raise ArgumentError(f"keep={keep} of {patches} patches leaves none; keep more")
    kept = score.kept(reading, count)
    if kept.shape != (pictures, count):
        message = (
            f"{type(score).__name__} chose {tuple(kept.shape)} patches, but was asked "
            f"for {(pictures, count)}: pictures, patches"
        )
        raise ShapeError(message)
    return kept


def _gather(states: Tensor, kept: Tensor, prefix: int) -> Tensor:
    """The prefix and the patches that stay."""
    places = (kept + prefix)[..., None].expand(-1, -1, states.shape[-1])
    return torch.cat([states[:, :prefix], states.gather(1, places)], 1)
