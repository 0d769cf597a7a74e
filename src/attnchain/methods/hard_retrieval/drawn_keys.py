"""Multi-head attention that learns with one drawn key for each query."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn

from attnchain.checks import check_count, check_whole
from attnchain.errors import ArgumentError
from attnchain.methods.hard_retrieval.retrieving import retrieve, scores_of


class HardAttention(nn.Module):
    r"""Multi-head attention in which each query retrieves one value.

    In training a key is drawn with the probabilities $p = \mathrm{softmax}(QK^\top /
    \sqrt d)$, and its value is the output. The gradient to V goes to the chosen rows;
    that to p is $dO\,V^\top$, as if the output had been p V (straight-through). It is
    the gradient of the expected loss where the loss is linear in the output, and is
    biased, even in its sign, where it is not. In evaluation the likeliest key is
    taken: no softmax and no product with V.

    Args:
        width: Channels in and out.
        heads: Number of heads; divides the width.

    Raises:
        ArgumentError: Heads do not divide the width.

    Sources:
        Xu et al., Hard Retrieval Decoder Attention, arXiv 2009.14658; without its
        smoothing.

    Example:
        >>> attention = HardAttention(8, 2)
        >>> attention(torch.ones(1, 5, 8)).shape
        torch.Size([1, 5, 8])
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        check_whole(width, "width")
        check_count(heads, "heads", low=1, high=width, meaning="at most the width")
        if width % heads:
            raise ArgumentError(f"heads must divide the width {width}, but is {heads}")
        self.heads = heads
        self.inward = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.outward = nn.Linear(width, width)

    def forward(
        self,
        tokens: Float[Tensor, "b n width"],
        sources: Float[Tensor, "b m width"] | None = None,
        *,
        mask: Bool[Tensor, "..."] | None = None,
        generator: Generator | None = None,
    ) -> Float[Tensor, "b n width"]:
        """What tokens retrieve from their sources.

        Args:
            tokens: Those that ask.
            sources: Those that are asked; the tokens themselves by default.
            mask: True where a query may take a key; broadcasts to `(b, heads, n, m)`.
            generator: Source of the draws; torch's own by default.

        Raises:
            ArgumentError: While learning, a query may take no key.
        """
        asked = tokens if sources is None else sources
        parts = zip(self.inward, (tokens, asked, asked), strict=True)
        q, k, v = (
            project(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project, states in parts
        )
        if self.training:
            taken = drawn_retrieval(q, k, v, mask=mask, generator=generator)
        else:
            taken = retrieve(q, k, v, attn_mask=mask)
        return self.outward(taken.transpose(1, 2).flatten(2))


def drawn_retrieval(
    query: Float[Tensor, "*batch n d"],
    key: Float[Tensor, "*batch m d"],
    value: Float[Tensor, "*batch m e"],
    *,
    mask: Bool[Tensor, "..."] | None = None,
    generator: Generator | None = None,
) -> Float[Tensor, "*batch n e"]:
    """The value of one key drawn for each query, with straight-through gradients.

    Args:
        query: Queries.
        key: Their keys.
        value: Values of the keys.
        mask: True where a query may take a key.
        generator: Source of the draws; torch's own by default.

    Raises:
        ArgumentError: A query may take no key.
    """
    scores = scores_of(query, key, mask)
    if mask is not None and bool((scores.detach().amax(-1) == -torch.inf).any()):
        message = "mask leaves a query without any key to take; leave such queries out"
        raise ArgumentError(message)
    weights = scores.softmax(-1)
    flat = weights.detach().reshape(-1, weights.shape[-1])
    index = torch.multinomial(flat, 1, generator=generator)
    return _Retrieved.apply(weights, value, index.view(weights.shape[:-1]))


class _Retrieved(torch.autograd.Function):
    """Chosen rows of V; the gradient to the weights is that of their product with V."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, value: Tensor, index: Tensor) -> Tensor:
        chosen = index[..., None].expand(*index.shape, value.shape[-1])
        ctx.save_for_backward(value, chosen)
        return value.gather(-2, chosen)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        value, chosen = ctx.saved_tensors
        to_value = torch.zeros_like(value).scatter_add(-2, chosen, gradient)
        return gradient @ value.mT, to_value, None
