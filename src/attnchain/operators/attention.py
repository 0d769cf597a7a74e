"""A chain read from queries and keys, its matrix formed only where it is small."""

from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from itertools import product
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.checks import check_finite, check_floating
from attnchain.errors import NotStochasticError, ShapeError
from attnchain.operators import tiles
from attnchain.operators.base import (
    AbstractTransition,
    BatchIndex,
    Side,
    Target,
    batch_select,
    computing_dtype,
    kept_states,
)
from attnchain.operators.fused import check_fused, prefers_fused
from attnchain.operators.memory import announce_storage, fits_budget
from attnchain.operators.product import Head, TiledHead, tiled_product

Backend = Literal["auto", "dense", "tiled", "triton"]


@dataclass(frozen=True, eq=False, repr=False)
class AttentionTransition(AbstractTransition):
    r"""Softmax attention as a batch of chains, from queries and keys.

    $P_{ij} = \exp(s_{ij}) / \sum_l \exp(s_{il})$ with scores
    $s_{ij} = \text{scale}\; q_i \cdot k_j + \text{mask}_{ij}$.

    The chain is that of the given numbers: half-precision queries and keys are
    computed with in float32. Products keep one stored matrix for each chain when
    all of them fit `memory_budget` (a quarter of the free memory, at most 2 GiB).
    Otherwise, and wherever gradients are tracked, P is formed in pieces, O(n)
    memory: by Triton kernels on CUDA, where those are installed and reproduce a
    small chain, else in tiles. `backend` overrides that rule.

    Args:
        q: Queries `(*batch, n, d)`, after rotary embedding and normalisation.
        k: Keys of the same shape.
        scale: Factor of the scores; by default `d ** -0.5`.
        mask: What each query may see, broadcastable to `(*batch, n, n)`: boolean
            (True = may attend) or additive. `(n,)` masks keys for all queries.
        causal: State i sees states 0..i only.
        backend: "dense" stores the matrices, "tiled" and "triton" never do.

    Raises:
        ShapeError: The shapes differ (cross-attention is not a chain), the mask
            does not broadcast, there is no state, or the backend cannot run.
        MissingExtraError: The backend is "triton" and Triton is not installed.
        NotStochasticError: Scores overflow or are not numbers, or a row is fully
            masked (raised by the first product).

    Sources:
        Erel et al., Attention (as Discrete-Time Markov) Chains, arXiv 2507.17657.

    Example:
        >>> import torch
        >>> q = torch.zeros(3, 2)
        >>> AttentionTransition(q, q).push(torch.tensor([1.0, 0.0, 0.0]))
        tensor([0.3333, 0.3333, 0.3333])
    """

    q: Float[Tensor, "*batch n d"]
    k: Float[Tensor, "*batch n d"]
    scale: float | None = field(default=None, kw_only=True)
    mask: Tensor | None = field(default=None, kw_only=True)
    causal: bool = field(default=False, kw_only=True)
    backend: Backend = field(default="auto", kw_only=True)

    def __post_init__(self) -> None:
        _check_queries_and_keys(self.q, self.k)
        if self.backend not in get_args(Backend):
            message = (
                "backend must be auto, dense or tiled, or on CUDA triton, but is "
                f"{self.backend!r}"
            )
            raise ShapeError(message)
        if self.backend == "triton":
            check_fused(self.q.device, self.q.shape[-1])
        if self.scale is None:
            object.__setattr__(self, "scale", self.q.shape[-1] ** -0.5)
        if self.mask is not None:
            object.__setattr__(self, "mask", _checked_mask(self.mask, self.shape))
        dtype = computing_dtype(torch.promote_types(self.q.dtype, self.k.dtype))
        object.__setattr__(self, "q", self.q.to(dtype))
        object.__setattr__(self, "k", self.k.to(dtype))

    @property
    def shape(self) -> torch.Size:
        n = self.q.shape[-2]
        return torch.Size((*self.q.shape[:-2], n, n))

    @property
    def dtype(self) -> torch.dtype:
        return self.q.dtype

    @property
    def device(self) -> torch.device:
        return self.q.device

    @property
    def row_error(self) -> float:
        """Rounding of scores (d terms each), exponentials and one product."""
        eps, d = torch.finfo(self.dtype).eps, self.q.shape[-1]
        largest = float(self.q.detach().norm(dim=-1).max()) * float(
            self.k.detach().norm(dim=-1).max()
        )
        return super().row_error + 2 * eps * (d + 2) * abs(self._scale) * largest

    def diagonal(self) -> Float[Tensor, "*batch n"]:
        """Probability of every state to stay where it is: the diagonal of P.

        Cost: one pass over the scores, O(n) memory.
        """
        staying = [
            tiles.diagonal(scores, head.sums)
            for scores, head in zip(self.scores, self._heads, strict=True)
        ]
        return torch.stack(staying).view(self.q.shape[:-1])

    def restrict(self, keep: Tensor | slice) -> "AttentionTransition":
        """The chain on some states only: softmax again over the kept keys.

        Args:
            keep: Indices, boolean mask (n,) or slice of the states to keep.

        Returns:
            The smaller transition. Equals `Restricted` of this one, without ever
            forming a row mass.

        Raises:
            ShapeError: No state is kept, one is kept twice or does not exist, or the
                states of a causal chain would change their order.
        """
        if not isinstance(keep, slice):
            keep = kept_states(keep, self.n_states)
            if self.causal and bool((keep.diff() <= 0).any()):
                message = "states of a causal chain must be kept in their own order"
                raise ShapeError(message)
        mask = self.mask
        if mask is not None:
            mask = mask[..., keep]
            mask = mask[..., keep, :] if mask.shape[-2] > 1 else mask
        q, k = self.q[..., keep, :], self.k[..., keep, :]
        return replace(self, q=q, k=k, mask=mask)

    def to(self, target: Target) -> "AttentionTransition":
        mask = self.mask
        if mask is not None and not (
            isinstance(target, torch.dtype) and mask.dtype == torch.bool
        ):
            mask = mask.to(target)
        moved = self._derived if target == torch.float64 else partial(replace, self)
        return moved(q=self.q.to(target), k=self.k.to(target), mask=mask)

    def to_dense(self) -> Float[Tensor, "*batch n n"]:
        """The softmax matrices: n * n numbers for each chain of the batch.

        Warns:
            MaterializationWarning: They exceed the memory budget.
        """
        announce_storage(self.shape, self.dtype, self.device)
        if self._tracks_gradients:
            identity = torch.eye(self.n_states, dtype=self.dtype, device=self.device)
            return self._push(identity.expand(self.shape))
        matrices = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        flat = matrices.view(-1, self.n_states, self.n_states)
        for place, scores, matrix in zip(self._places, self.scores, flat, strict=True):
            _check_tops(tiles.fill(scores, matrix), place)
        return matrices

    def _select(self, index: BatchIndex) -> "AttentionTransition":
        mask = self.mask
        if mask is not None:
            mask = mask.expand(*self.batch_shape, *mask.shape[-2:])
            mask = batch_select(mask, index, 2)
        q, k = batch_select(self.q, index, 2), batch_select(self.k, index, 2)
        chosen = self._derived if q.numel() else partial(replace, self)
        return chosen(q=q, k=k, mask=mask)

    def _derived(self, **parts: Tensor | None) -> "AttentionTransition":
        """A copy with other parts, cut or widened from checked ones: not checked."""
        derived = object.__new__(AttentionTransition)
        for part in fields(self):
            value = parts.get(part.name, getattr(self, part.name))
            object.__setattr__(derived, part.name, value)
        return derived

    def _push(self, vectors: Tensor) -> Tensor:
        return self._product(vectors, "push")

    def _pull(self, observables: Tensor) -> Tensor:
        return self._product(observables, "pull")

    def _product(self, vectors: Tensor, side: Side) -> Tensor:
        stored = None if self._tracks_gradients else self._stored
        if stored is not None:
            return vectors @ (stored if side == "push" else stored.mT)
        return tiled_product(
            self._heads, vectors, self.q * self._scale, self.k, side=side
        )

    @property
    def _scale(self) -> float:
        return self.q.shape[-1] ** -0.5 if self.scale is None else self.scale

    @property
    def _tracks_gradients(self) -> bool:
        return torch.is_grad_enabled() and self.requires_grad

    @cached_property
    def _stored(self) -> Tensor | None:
        """The matrices, where the backend rule says to keep them."""
        if self.backend in ("tiled", "triton"):
            return None
        fits = fits_budget(self.shape, self.dtype, self.device)
        return self.to_dense() if fits or self.backend == "dense" else None

    @property
    def _places(self) -> list[tuple[int, ...]]:
        """Batch index of every chain, in flattened order."""
        return list(product(*map(range, self.batch_shape)))

    @cached_property
    def scores(self) -> tuple[tiles.Scores, ...]:
        """What the scores of every chain are made of."""
        n, d = self.q.shape[-2:]
        query = (self.q.detach() * (self._scale * tiles.LOG2_E)).reshape(-1, n, d)
        key = self.k.detach().reshape(-1, n, d)
        masks: list[Tensor | None] = [None] * len(self._places)
        if self.mask is not None:
            mask = self.mask.expand(*self.batch_shape, *self.mask.shape[-2:])
            masks = [mask[place] for place in self._places]
        return tuple(
            tiles.Scores(q, k, m, self.causal)
            for q, k, m in zip(query, key, masks, strict=True)
        )

    @cached_property
    def _heads(self) -> tuple[Head, ...]:
        """Every chain ready for products without a stored matrix."""
        heads = self._fused_heads() if self._fused else self._tiled_heads()
        for place, head in zip(self._places, heads, strict=True):
            _check_tops(head.sums.top, place)
        return heads

    def _tiled_heads(self) -> tuple[Head, ...]:
        return tuple(TiledHead(s, tiles.row_sums(s)) for s in self.scores)

    def _fused_heads(self) -> tuple[Head, ...]:
        from attnchain.operators.triton_kernels import FusedHead

        n, d = self.q.shape[-2:]
        query = self.q.detach().reshape(-1, n, d)
        key = self.k.detach().reshape(-1, n, d)
        return tuple(
            FusedHead.prepare(
                q, k, mask=scores.mask, causal=self.causal, scale=self._scale
            )
            for q, k, scores in zip(query, key, self.scores, strict=True)
        )

    @property
    def _fused(self) -> bool:
        if self.backend == "triton":
            return True
        auto = self.backend == "auto"
        return auto and prefers_fused(self.device, self.dtype, self.q.shape[-1])


def _check_queries_and_keys(q: Tensor, k: Tensor) -> None:
    check_floating(q, "q")
    check_floating(k, "k")
    if q.shape != k.shape or q.ndim < 2 or 0 in q.shape:
        message = (
            "q and k must have one shape (*batch, n, d) with at least one state, but "
            f"have {tuple(q.shape)} and {tuple(k.shape)}. Cross-attention (different "
            "n) is not a chain; for grouped-query attention repeat the keys first"
        )
        raise ShapeError(message)
    if q.device != k.device:
        raise ShapeError(f"q is on {q.device}, but k is on {k.device}")
    check_finite(q.detach(), "q")
    check_finite(k.detach(), "k")


def _checked_mask(mask: Tensor, shape: torch.Size) -> Tensor:
    """The mask with at least two axes, once it is known to broadcast to `shape`."""
    mask = mask[None, :] if mask.ndim == 1 else mask
    n = shape[-1]
    rows, columns = mask.shape[-2:] if mask.ndim >= 2 else (0, 0)
    fits = rows in (1, n) and columns == n and mask.ndim <= len(shape)
    batch = zip(mask.shape[-3::-1], shape[-3::-1], strict=False)
    if not fits or any(have not in (1, want) for have, want in batch):
        message = f"mask {tuple(mask.shape)} does not broadcast to {tuple(shape)}"
        raise ShapeError(message)
    if mask.dtype != torch.bool and not mask.is_floating_point():
        message = f"mask must be boolean or floating point, but is {mask.dtype}"
        raise ShapeError(message)
    if mask.requires_grad:
        message = "gradients in the mask would need n x n memory; detach it"
        raise ShapeError(message)
    return mask


def _check_tops(top: Tensor, place: tuple[int, ...]) -> None:
    """Names the first row whose largest score is not finite."""
    if bool(torch.isfinite(top).all()):
        return
    row = int(torch.nonzero(~torch.isfinite(top))[0])
    where = f"row {row} of chain {place}" if place else f"row {row}"
    if bool(torch.isneginf(top[row])):
        message = (
            f"{where} is fully masked: its state can go nowhere. Drop masked tokens "
            "with `restrict` instead of masking them"
        )
    else:
        message = (
            f"{where} has scores that overflow {top.dtype} or are not numbers (in the "
            "mask?); float64 holds larger ones"
        )
    raise NotStochasticError(message)
