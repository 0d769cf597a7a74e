r"""Differentiable products with attention that never store its matrix.

With a on the row side and b on the column side (push: a the vector, b the incoming
gradient; pull: the reverse) both products have the same gradient in the scores,
$\partial s_{ij} = P_{ij}\, a_i\, (b_j - (P b)_i)$, so the gradients in q and k are
themselves a few products with P: O(r d) columns, still O(n) memory.
"""

# pyright: reportUnknownMemberType=false

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from attnchain.operators.kernels.prepared import Head, Side
from attnchain.operators.precision import full_precision


def tiled_product(
    heads: tuple[Head, ...], vectors: Tensor, q: Tensor, k: Tensor, *, side: Side
) -> Tensor:
    """Vectors (*batch, r, n) times P on the given side, one head after the other.

    Args:
        heads: One for each chain, in the order of the flattened batch.
        vectors: Row vectors or observables, (*batch, r, n).
        q: The queries times scale the heads were made from, for their gradient.
        k: The keys, likewise.
        side: "push" for v P, "pull" for P f.

    Returns:
        A tensor like `vectors`.
    """
    return cast("Tensor", _TiledProduct.apply(vectors, q, k, heads, side))


class _TiledProduct(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917  (torch passes all of it by position)
        ctx: Any,
        vectors: Tensor,
        q: Tensor,
        k: Tensor,
        heads: tuple[Head, ...],
        side: Side,
    ) -> Tensor:
        ctx.save_for_backward(vectors, q, k)
        ctx.heads, ctx.side = heads, side
        return _each(heads, vectors, side)

    @staticmethod
    @full_precision
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Products again, differentiable themselves: second derivatives are right."""
        vectors, q, k = ctx.saved_tensors
        side: Side = ctx.side

        def times(values: Tensor, side: Side) -> Tensor:
            return tiled_product(ctx.heads, values, q, k, side=side)

        toward_vectors = times(gradient, "pull" if side == "push" else "push")
        if not any(ctx.needs_input_grad[1:3]):
            return toward_vectors, None, None, None, None
        a, b = (vectors, gradient) if side == "push" else (gradient, vectors)
        pulled = toward_vectors if side == "push" else times(b, "pull")
        keys, aq = k[..., None, :, :], a[..., None] * q[..., None, :, :]
        q_grad = a[..., None] * (
            _features(times, b[..., None] * keys, "pull")
            - pulled[..., None] * _features(times, keys, "pull")
        )
        k_grad = b[..., None] * _features(times, aq, "push")
        k_grad = k_grad - _features(times, pulled[..., None] * aq, "push")
        return toward_vectors, q_grad.sum(-3), k_grad.sum(-3), None, None


def _each(heads: tuple[Head, ...], vectors: Tensor, side: Side) -> Tensor:
    flat = vectors.reshape(len(heads), *vectors.shape[-2:])
    products = [head.multiply(v, side) for head, v in zip(heads, flat, strict=True)]
    return torch.stack(products).view(vectors.shape)


def _features(
    times: Callable[[Tensor, Side], Tensor], values: Tensor, side: Side
) -> Tensor:
    """Product with values (*batch, r, n, d): every feature is one vector."""
    columns = values.transpose(-1, -2)
    flat = columns.reshape(*columns.shape[:-3], -1, columns.shape[-1])
    return times(flat, side).view(columns.shape).transpose(-1, -2)
