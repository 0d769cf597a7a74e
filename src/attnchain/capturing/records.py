"""What was read at one attention call: queries and keys, or a matrix."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attnchain.capturing.backward import Trace
from attnchain.capturing.calls import HIDDEN
from attnchain.capturing.grid import TokenGrid
from attnchain.capturing.sites import AttentionSite
from attnchain.capturing.token_layout import Layout
from attnchain.errors import ArgumentError, ShapeError
from attnchain.operators import (
    AbstractTransition,
    AttentionTransition,
    Stacked,
)

AXES = ("input", "head")
"""Batch dimensions of captured attention: pictures or texts, and heads."""
Heads = int | Sequence[int] | None


@dataclass(frozen=True, eq=False, repr=False)
class AbstractRecord(ABC):
    """One attention call: its place, its token layout and its probabilities.

    Attributes:
        site: Where and when it was computed.
        causal: Query i sees keys 0..i only.
        layout: Token grids of queries and keys, as far as they are known.
        trace: Its place in the graph, where `gradients=True` asked for it.
    """

    site: AttentionSite
    causal: bool = field(default=False, kw_only=True)
    layout: Layout = field(default_factory=Layout, kw_only=True)
    trace: Trace | None = field(default=None, kw_only=True)

    def __repr__(self) -> str:
        """Returns one line, without the numbers."""
        first, tokens = self.tensors[0], self.layout.queries
        layout = f", {tokens}" if isinstance(tokens, TokenGrid) else ""
        return (
            f"{type(self).__name__}({self.site}, shape={self.shape}{layout}, "
            f"{str(first.dtype).removeprefix('torch.')}, {first.device})"
        )

    @property
    def grid(self) -> TokenGrid:
        """Layout of the query tokens; raises GridError when it is not known."""
        return self.layout.known(self.site)

    @property
    def key_grid(self) -> TokenGrid:
        """Layout of the key tokens; raises GridError when it is not known."""
        return self.layout.known(self.site, keys=True)

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Pictures, heads, queries, keys."""

    @property
    @abstractmethod
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors held; several records may hold the same mask."""

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    @abstractmethod
    def live(self) -> Bool[Tensor, "pictures m"]:
        """Key tokens that some query may see; the others are padding."""

    def chains(
        self, heads: Heads = None, *, tokens: Tensor | None = None
    ) -> tuple[AbstractTransition, ...]:
        """Returns one chain, or batch of heads, for each picture or text of the batch.

        Padding is no state of it: each has as many states as its text has tokens, and
        is what the text alone would give.

        Args:
            heads: A head (its axis is dropped), several heads, or all.
            tokens: Mask `(pictures, n)` of the tokens that are states; by default
                those that some query may see, `live`.

        Returns:
            A transition of batch shape `(heads,)`, or `()`, for each picture.

        Raises:
            ShapeError: Queries and keys are not the same tokens, or the mask has
                another shape.
            ArgumentError: There is no such head.
            NotStochasticError: Rows of a matrix sum to less than one.
        """
        own = self._without_empty_places()
        if own is not self:
            return own.chains(heads, tokens=tokens)
        self._check_chain()
        chosen = self.live if tokens is None else tokens
        n_pictures, n = self.shape[0], self.shape[-1]
        if tuple(chosen.shape) != (n_pictures, n) or chosen.dtype != torch.bool:
            message = (
                f"tokens must be a boolean mask {(n_pictures, n)}, but is "
                f"{chosen.dtype} {tuple(chosen.shape)}"
            )
            raise ShapeError(message)
        if not bool(chosen.any(-1).all()):
            picture = int(chosen.any(-1).int().argmin())
            message = (
                f"input {picture} of the batch is left no token at {self.site}: all "
                f"are masked; leave it out of the batch, or give tokens=..."
            )
            raise ArgumentError(message)
        return tuple(
            self._chain_of(picture, heads, mask.to(self.tensors[0].device))
            for picture, mask in enumerate(chosen)
        )

    @abstractmethod
    def _chain_of(
        self, picture: int, heads: Heads, tokens: Tensor
    ) -> AbstractTransition:
        """The chain of one picture on some of its tokens."""

    def transition(self, heads: Heads = None) -> AbstractTransition:
        """Returns the attention as a batch of chains, with axes ("input", "head").

        Where some tokens are padding (not `live`), each chain lives on the tokens of
        its own text, and what is asked of it reads 0 at padding (`Stacked`).

        Args:
            heads: A head (its axis is dropped), several heads, or all.

        Returns:
            A transition of batch shape `(pictures, heads)`, or `(pictures,)`.

        Raises:
            ShapeError: Queries and keys are not the same tokens (cross-attention, or
                decoding with a cache).
            ArgumentError: There is no such head.
            NotStochasticError: Rows of a matrix sum to less than one: part of the
                attention went to a learned sink.
        """
        own = self._without_empty_places()
        if own is not self:
            return own.transition(heads)
        self._check_chain()
        live = self.live
        axes = AXES if heads is None or isinstance(heads, Iterable) else AXES[:1]
        if live.is_meta or bool(live.all()):
            return self._whole(heads, axes)
        texts = self.chains(heads)
        members = [member for text in texts for member in text.chains()]
        live = live if len(axes) == 1 else live[:, None]
        shape = (len(texts), *texts[0].batch_shape, self.shape[-1])
        return Stacked(members, live.expand(shape), axes)

    @abstractmethod
    def _whole(self, heads: Heads, axes: tuple[str, ...]) -> AbstractTransition:
        """All chains, of tokens that are all live."""

    @abstractmethod
    def probabilities(self, heads: Heads = None) -> Float[Tensor, "*batch n m"]:
        """Returns the attention as matrices; for cross-attention too.

        Rows are softmax probabilities over the keys, in float32 or float64; the row
        of a query that may see no key is zero, as torch has it.

        Args:
            heads: A head (its axis is dropped), several heads, or all.

        Raises:
            ArgumentError: There is no such head.

        Cost:
            One n x m matrix for each picture and head.
        """

    def _without_empty_places(self) -> Self:
        """Without the keys of a static cache that come after the prompt.

        Where a later pass asks, its own keys are among these and are seen.
        """
        n_queries, n_keys = self.shape[-2:]
        empty = self.site.kind == "self" and n_keys > n_queries > 1
        if not empty or self.live.is_meta or bool(self.live[:, n_queries:].any()):
            return self
        return self._with_keys(n_queries)

    @abstractmethod
    def _with_keys(self, number: int) -> Self:
        """The same with the first few keys only."""

    def _check_chain(self) -> None:
        n_queries, n_keys = self.shape[-2:]
        kind = self.site.kind
        if kind not in ("cross", "channel") and n_queries == n_keys:
            return
        reasons = {
            "cross": (
                "Take its record with .matching(kind='cross') and use "
                ".probabilities(), for example as the start of a walk"
            ),
            "channel": "It goes from channel to channel; use .probabilities()",
        }
        reason = reasons.get(
            kind,
            "Where a cache holds the keys of earlier passes, choose forwards=0 or "
            "capture a pass over the whole text; where the keys are pooled or the "
            "queries are, use .probabilities()",
        )
        message = (
            f"{self.site} is no chain of tokens: its {n_queries} queries and {n_keys} "
            f"keys are not the same tokens. {reason}"
        )
        raise ShapeError(message)

    def _check_heads(self, heads: Heads, n_heads: int) -> None:
        several = heads if isinstance(heads, Iterable) else [heads]
        asked = range(1) if heads is None else list(several)
        known = range(-n_heads, n_heads)
        if not asked or any(head not in known for head in asked):
            message = (
                f"{self.site} has heads 0 to {n_heads - 1}, but {heads!r} was asked for"
            )
            raise ArgumentError(message)


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

    @property
    def live(self) -> Bool[Tensor, "pictures m"]:
        n_pictures, _, n_queries, n_keys = self.shape
        if self.mask is None:
            own = torch.arange(n_keys, device=self.q.device)
            seen = own < n_queries if self.causal else own >= 0
            return seen.expand(n_pictures, n_keys)
        seen = self.mask
        if seen.dtype != torch.bool:
            seen = seen > HIDDEN
        return seen.any(dim=(1, 2)).expand(n_pictures, n_keys)

    def _chain_of(
        self, picture: int, heads: Heads, tokens: Tensor
    ) -> AttentionTransition:
        q, k, mask = self._with_heads(heads)
        if mask is not None:
            mask = mask.expand(q.shape[0], *mask.shape[1:])[picture]
        whole = AttentionTransition(
            q[picture], k[picture], scale=self.scale, mask=mask, causal=self.causal
        )
        return whole.restricted_to(tokens)

    def _whole(self, heads: Heads, axes: tuple[str, ...]) -> AttentionTransition:
        q, k, mask = self._with_heads(heads)
        return AttentionTransition(
            q, k, scale=self.scale, mask=mask, causal=self.causal, axes=axes
        )

    def _with_keys(self, number: int) -> Self:
        mask = None if self.mask is None else self.mask[..., :number]
        return replace(self, k=self.k[..., :number, :], mask=mask)

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


def _full_precision(device_type: str) -> AbstractContextManager[Any]:
    """Keeps autocast from rounding, where the device has it."""
    if not torch.amp.is_autocast_available(device_type):
        return nullcontext()
    return torch.autocast(device_type, enabled=False)
