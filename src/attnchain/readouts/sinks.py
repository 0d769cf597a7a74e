"""Attention sinks: tokens that draw attention whatever is said."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attnchain.checks import check_fraction
from attnchain.errors import ShapeError
from attnchain.operators import AbstractTransition, is_causal
from attnchain.readouts.columns import received


@dataclass(frozen=True)
class Sink:
    """A token that draws attention in some heads.

    Attributes:
        token: Its position.
        mass: Mean attention it gets, over all layers and heads.
        largest: That of the head where it gets most.
        heads: Share of all heads in which it is a sink.
        first_layer: Number, in the order given, of the first layer with such a head.
    """

    token: int
    mass: float
    largest: float
    heads: float
    first_layer: int


def sinks(
    layers: Sequence[AbstractTransition], *, threshold: float = 0.3
) -> tuple[Sink, ...]:
    """Tokens that get more than some share of the attention that may reach them.

    Args:
        layers: One transition for each layer, all heads of one text:
            `[layer[0] for layer in captured.select()]`.
        threshold: Mean attention over all tokens that may look, in (0, 1].

    Returns:
        `Sink`, by decreasing mass; none where no head has any.

    Raises:
        ShapeError: A layer has padding, or layers have different tokens.
        ArgumentError: The threshold is out of range.

    Cost:
        One product for each head, O(n d) memory.

    Sources:
        Xiao et al., arXiv 2309.17453, for the name; Gu et al., arXiv 2410.10781, for
        the mean attention and its threshold 0.3. The last tokens of a causal text are
        seen by few and left out: half the tokens at least must be able to look.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> head = as_transition(torch.tensor([[1.0, 0.0], [0.9, 0.1]]))
        >>> sinks([head])
        (Sink(token=0, mass=0.95, largest=0.95, heads=1.0, first_layer=0),)
    """
    check_fraction(threshold, "threshold")
    counts = {layer.n_states for layer in layers}
    if len(counts) != 1:
        message = f"layers must be chains over the same tokens, but have {counts or 0}"
        raise ShapeError(message)
    n = counts.pop()
    shares = [_seen_by_many(layer).reshape(-1, n).double() for layer in layers]
    over = torch.stack([(share > threshold).any(0) for share in shares])
    every = torch.cat(shares)
    found = [
        Sink(
            token=token,
            mass=round(float(every[:, token].mean()), 6),
            largest=round(float(every[:, token].max()), 6),
            heads=float((every[:, token] > threshold).double().mean()),
            first_layer=int(over[:, token].nonzero()[0]),
        )
        for token in over.any(0).nonzero()[:, 0].tolist()
    ]
    return tuple(sorted(found, key=lambda sink: -sink.mass))


def _seen_by_many(layer: AbstractTransition) -> Tensor:
    """Mean attention received; 0 for tokens that less than half of all may see."""
    shares = received(layer)
    if is_causal(layer):
        shares[..., layer.n_states // 2 + 1 :] = 0
    return shares
