"""Arg-max attention in a model that has learned with the softmax."""

from collections.abc import Collection
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnchain.capturing import replaced_attention
from attnchain.errors import ShapeError


class HardRetrieval(AbstractContextManager["HardRetrieval"]):
    """A model whose attention takes the likeliest key, in some of its layers.

    Args:
        model: Any torch module that calls fused attention, or can be told to: the
            decoder, to leave an encoder as it is.
        layers: Numbers of the calls of attention, counted from 0 in each run of the
            model; all by default. A decoder with cross-attention calls self- and
            cross-attention in turn.

    Raises:
        CaptureError: As `capturing.replaced_attention` says.

    Example:
        >>> heads = torch.nn.MultiheadAttention(4, 1, batch_first=True).eval()
        >>> x = torch.randn(1, 5, 4)
        >>> with HardRetrieval(heads), torch.no_grad():
        ...     taken, _ = heads(x, x, x, need_weights=False)
    """

    def __init__(
        self, model: nn.Module, *, layers: Collection[int] | None = None
    ) -> None:
        self.model, self.layers = model, layers
        self._stack = ExitStack()

    def __enter__(self) -> "HardRetrieval":
        switch = replaced_attention(self.model, retrieve, layers=self.layers)
        self._stack.enter_context(switch)
        return self

    def __exit__(self, *failure: Any) -> bool | None:
        return self._stack.__exit__(*failure)


def retrieve(
    query: Float[Tensor, "*batch n d"],
    key: Float[Tensor, "*batch m d"],
    value: Float[Tensor, "*batch m e"],
    *,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Float[Tensor, "*batch n e"]:
    r"""The value of each query's likeliest key: $o_i = v_{\arg\max_j s_{ij}}$.

    Takes what `scaled_dot_product_attention` takes, without dropout. There is neither
    a softmax nor a product with V. Of equal scores the first is taken.

    Args:
        query: Queries.
        key: Their keys; with fewer heads where `enable_gqa`.
        value: Values of the keys.
        attn_mask: True where a query may take a key, or what is added to the scores.
        is_causal: Query i takes one of the keys 0..i.
        scale: Factor of the scores; by default `d ** -0.5`.
        enable_gqa: Several query heads share one head of keys and values.

    Returns:
        One row of V for each query; zero where all keys are masked, and
        not a number where a score is none.

    Raises:
        ShapeError: Heads of queries are no multiple of those of keys.

    Example:
        >>> k = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> retrieve(torch.tensor([[0.2, 0.7]]), k, torch.tensor([[5.0], [6.0]]))
        tensor([[6.]])
    """
    if enable_gqa:
        key, value = (_for_each_query_head(x, query) for x in (key, value))
    scores = scores_of(query, key, attn_mask, is_causal=is_causal, scale=scale)
    best, index = scores.max(-1, keepdim=True)
    batch = torch.broadcast_shapes(index.shape[:-2], value.shape[:-2])
    chosen = index.expand(*batch, index.shape[-2], value.shape[-1])
    taken = value.expand(*batch, *value.shape[-2:]).gather(-2, chosen)
    if attn_mask is not None:
        taken = taken.masked_fill(best == -torch.inf, 0)
    return taken.masked_fill(best.isnan(), torch.nan)


def scores_of(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Scores before the softmax, with -inf where a key is not seen."""
    scaled = query * (query.shape[-1] ** -0.5 if scale is None else scale)
    scores = scaled @ key.mT
    if is_causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
        scores = scores.masked_fill(~seen.tril(), -torch.inf)
    if mask is None:
        return scores
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask, -torch.inf)
    return scores + mask


def _for_each_query_head(shared: Tensor, query: Tensor) -> Tensor:
    heads, own = query.shape[-3], shared.shape[-3]
    if heads % own:
        message = f"{heads} heads of queries cannot share {own} heads of keys"
        raise ShapeError(message)
    return shared.repeat_interleave(heads // own, -3)
