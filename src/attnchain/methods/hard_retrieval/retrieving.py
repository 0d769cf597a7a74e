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
    shared = _heads_sharing(query, key) if enable_gqa else 1
    scores = scores_of(
        query, key, attn_mask, is_causal=is_causal, scale=scale, shared=shared
    )
    best, index = scores.max(-1, keepdim=True)
    rows = _side_by_side(index, shared)
    batch = torch.broadcast_shapes(rows.shape[:-2], value.shape[:-2])
    chosen = rows.expand(*batch, rows.shape[-2], value.shape[-1])
    taken = value.expand(*batch, *value.shape[-2:]).gather(-2, chosen)
    if shared > 1:
        taken = taken.reshape(*query.shape[:-1], value.shape[-1])
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
    shared: int = 1,
) -> Tensor:
    """Scores before the softmax, with -inf where a key is not seen."""
    scaled = query * (query.shape[-1] ** -0.5 if scale is None else scale)
    scores = _side_by_side(scaled, shared) @ key.mT
    if shared > 1:
        scores = scores.reshape(*query.shape[:-1], key.shape[-2])
    if is_causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
        scores = scores.masked_fill(~seen.tril(), -torch.inf)
    if mask is None:
        return scores
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask, -torch.inf)
    return scores + mask


def _heads_sharing(query: Tensor, key: Tensor) -> int:
    """How many heads of queries share one head of keys."""
    heads, own = query.shape[-3], key.shape[-3]
    if heads % own:
        message = f"{heads} heads of queries cannot share {own} heads of keys"
        raise ShapeError(message)
    return heads // own


def _side_by_side(rows: Tensor, shared: int) -> Tensor:
    """Heads that share keys as one head of more rows, so that keys are not copied."""
    if shared == 1:
        return rows
    return rows.unflatten(-3, (-1, shared)).flatten(-3, -2)
