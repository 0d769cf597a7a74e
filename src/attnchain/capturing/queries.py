"""A record that keeps queries and keys instead of a matrix."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.capturing.record import AbstractRecord, Heads
from attnchain.operators import AttentionTransition


@dataclass(frozen=True, eq=False, repr=False)
class AttentionRecord(AbstractRecord):
    r"""Queries, keys and mask of one call of fused attention.

    The attention is $P = \mathrm{softmax}(\text{scale}\; Q K^\top + \text{mask})$.

    Attributes:
        q: Queries `(pictures, heads, n, d)` after rotary embedding and normalisation.
        k: Keys `(pictures, key heads, m, d)`; grouped-query attention has fewer heads
            here, each shared by consecutive query heads.
        scale: Factor of the scores.
        mask: Boolean (True = may attend) or additive, four axes, of length one where
            it is shared; None when every key may be seen.

    Example:
        >>> import torch
        >>> from attnchain.capturing import AttentionSite
        >>> q = torch.zeros(1, 2, 3, 4)
        >>> record = AttentionRecord(AttentionSite(0, "attn", "self"), q, q, scale=0.5)
        >>> record.transition(heads=0).batch_shape
        torch.Size([1])
    """

    q: Float[Tensor, "pictures heads n d"]
    k: Float[Tensor, "pictures key_heads m d"]
    scale: float = field(kw_only=True)
    mask: Tensor | None = field(default=None, kw_only=True)

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.q.shape[:3], self.k.shape[2])

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        own = (self.q, self.k)
        return own if self.mask is None else (*own, self.mask)

    def transition(self, heads: Heads = None) -> AttentionTransition:
        self._check_chain()
        q, k, mask = self._with_heads(heads)
        return AttentionTransition(
            q, k, scale=self.scale, mask=mask, causal=self.causal
        )

    def probabilities(self, heads: Heads = None) -> Tensor:
        q, k, mask = self._with_heads(heads)
        wide = torch.promote_types(q.dtype, torch.float32)
        with _full_precision(q.device.type):
            scores = (q.to(wide) * self.scale) @ k.to(wide).mT
        if self.causal:
            seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device)
            scores = scores.masked_fill(~seen.tril(), -torch.inf)
        if mask is not None and mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, -torch.inf)
        elif mask is not None:
            scores = scores + mask
        if mask is None:
            return scores.softmax(-1)
        nowhere = torch.isneginf(scores).all(-1, keepdim=True)
        return scores.softmax(-1).masked_fill(nowhere, 0.0)

    def _with_heads(self, heads: Heads) -> tuple[Tensor, Tensor, Tensor | None]:
        """Queries, keys and mask of the heads, keys repeated for grouped queries."""
        n_heads = self.q.shape[1]
        self._check_heads(heads, n_heads)
        group = n_heads // self.k.shape[1]
        k = self.k if group == 1 else self.k.repeat_interleave(group, dim=1)
        if heads is None:
            return self.q, k, self.mask
        mask = self.mask
        if mask is not None:
            mask = mask.expand(-1, n_heads, -1, -1)[:, heads]
        return self.q[:, heads], k[:, heads], mask


def _full_precision(device_type: str) -> AbstractContextManager:
    """Keeps autocast from rounding, where the device has it."""
    if not torch.amp.is_autocast_available(device_type):
        return nullcontext()
    return torch.autocast(device_type, enabled=False)
