"""One call of fused attention: its arguments, with the same axes however called."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attnchain.errors import UnsupportedModelError

PARAMETERS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
# torch.nn.attention.bias.CausalBias; importing the class takes seconds.
CAUSAL_BIAS = "CausalBias"


@dataclass(frozen=True, eq=False)
class Seen:
    """Arguments of a call, with axes (pictures, heads, tokens, width); not copied."""

    q: Tensor
    k: Tensor
    mask: Tensor | None
    scale: float
    causal: bool

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> "Seen":
        """Reads the arguments of `scaled_dot_product_attention`.

        Dropout is ignored: the chain is that of the undropped probabilities.

        Raises:
            UnsupportedModelError: The tensors are nested.
        """
        given = dict(zip(PARAMETERS, args, strict=False)) | dict(kwargs)
        q, k = given["query"].detach(), given["key"].detach()
        if q.is_nested or k.is_nested:
            message = (
                "attention over nested tensors cannot be captured; give the model a "
                "padded batch with a mask"
            )
            raise UnsupportedModelError(message)
        q, k = _aligned(q, k)
        scale, mask = given.get("scale"), given.get("attn_mask")
        causal = bool(given.get("is_causal", False))
        if type(mask).__name__ == CAUSAL_BIAS:
            mask = _as_boolean(mask, q.device)
            causal = mask is None
        return cls(
            q=_four_axes(q),
            k=_four_axes(k),
            mask=None if mask is None else _mask_axes(mask.detach(), q),
            scale=q.shape[-1] ** -0.5 if scale is None else float(scale),
            causal=causal,
        )

    @classmethod
    def of_product(cls, args: tuple[Any, ...], heads: int) -> "Seen":
        """Reads the product of scaled queries and keys in multi-head attention.

        Args:
            args: Those of `bmm` (queries, transposed keys), or of `baddbmm`, which
                has the additive mask before them.
            heads: Number of heads; the first axis runs over pictures and heads.
        """
        *masks, q, transposed = (tensor.detach() for tensor in args)
        split = (-1, heads)
        mask = masks[0].expand(q.shape[0], -1, -1) if masks else None
        return cls(
            q=q.unflatten(0, split),
            k=transposed.mT.unflatten(0, split),
            mask=None if mask is None else mask.unflatten(0, split),
            scale=1.0,
            causal=False,
        )

    def part(self, pictures: slice) -> "Seen":
        """Returns the call as if made for some pictures of the batch."""
        mask = self.mask
        if mask is not None and mask.shape[0] > 1:
            mask = mask[pictures]
        return replace(self, q=self.q[pictures], k=self.k[pictures], mask=mask)

    @property
    def lengths(self) -> tuple[int, int]:
        """Numbers of queries and keys."""
        return self.q.shape[2], self.k.shape[2]


def _aligned(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Broadcasts the batch axes of queries and keys, and one query head to many."""
    n_axes = max(q.ndim, k.ndim)
    q, k = (tensor[(None,) * (n_axes - tensor.ndim)] for tensor in (q, k))
    heads = -3 if n_axes > 3 else -2
    batch = torch.broadcast_shapes(q.shape[:heads], k.shape[:heads])
    if n_axes > 3 and q.shape[-3] == 1:
        q = q.expand(*q.shape[:-3], k.shape[-3], -1, -1)
    q, k = (tensor.expand(*batch, *tensor.shape[heads:]) for tensor in (q, k))
    return q, k


def _as_boolean(bias: Any, device: torch.device) -> Tensor | None:
    """The mask that a causal bias, a tensor without values, stands for.

    None where it is what `is_causal` says.
    """
    n, m = bias.seq_len_q, bias.seq_len_kv
    if bias.variant.name == "UPPER_LEFT" or n == m:
        return None
    return torch.ones(n, m, dtype=torch.bool, device=device).tril(m - n)


def _four_axes(tensor: Tensor) -> Tensor:
    if tensor.ndim == 2:
        return tensor[None, None]
    if tensor.ndim == 3:
        return tensor[:, None]
    return tensor.flatten(0, -4)


def _mask_axes(mask: Tensor, q: Tensor) -> Tensor:
    """Four axes, those along which the mask is merely expanded cut to length one."""
    mask = mask[(None,) * (q.ndim - mask.ndim)]
    if q.ndim > 4:
        mask = mask.expand(*q.shape[:-3], *mask.shape[-3:])
    mask = _four_axes(mask)
    for axis in range(4):
        if mask.stride(axis) == 0:
            mask = mask.narrow(axis, 0, 1)
    return mask
