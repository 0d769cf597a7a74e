"""A chain read from queries and keys, its matrix formed only where it is small."""

# pyright: reportUnknownMemberType=false

import math
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import product
from typing import Any, Literal, get_args, overload

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.checks import check_number
from attnchain.errors import ArgumentError
from attnchain.operators.attention_checks import (
    check_queries_and_keys,
    check_tops,
    checked_mask,
)
from attnchain.operators.base import AbstractTwoSided, Axes, Target
from attnchain.operators.changes import Given, watchable
from attnchain.operators.computed_once import kept
from attnchain.operators.indexing import (
    BatchIndex,
    batch_select,
    kept_states,
    remaining,
)
from attnchain.operators.kernels import tiled
from attnchain.operators.kernels.autograd import tiled_product
from attnchain.operators.kernels.prepared import Head, Side, TiledHead
from attnchain.operators.kernels.triton_support import (
    check_fused,
    fused_heads,
    prefers_fused,
)
from attnchain.operators.memory import announce_storage, fits_solving
from attnchain.operators.precision import computing_dtype, full_precision
from attnchain.operators.stacked import Stacked, for_each

Backend = Literal["auto", "dense", "tiled", "triton"]


@dataclass(frozen=True, eq=False, repr=False)
class AttentionTransition(AbstractTwoSided):
    r"""Softmax attention as a batch of chains, from queries and keys.

    $P_{ij} = \exp(s_{ij}) / \sum_l \exp(s_{il})$ with scores
    $s_{ij} = \text{scale}\; q_i \cdot k_j + \text{mask}_{ij}$.

    The chain is that of the given numbers: half-precision queries and keys are
    computed with in float32, and what an additive mask adds to a whole row changes
    nothing, at any size. Products keep one stored matrix for each chain when twice
    all of them fit `memory_budget` (a quarter of the machine's memory, at most 2
    GiB); the printed form says so. Otherwise, and wherever gradients are tracked, P
    is formed in pieces, O(n) memory: by Triton kernels on CUDA, where those are
    installed and reproduce a small chain, else in tiles. `backend` overrides that
    rule.

    Queries, keys and mask are not copied: changing them in place afterwards makes
    the next use of the chain an error.

    Args:
        q: Queries `(*batch, n, d)`, after rotary embedding and normalisation.
        k: Keys of the same shape.
        scale: Factor of the scores; by default `d ** -0.5`.
        mask: What each query may see, broadcastable to `(*batch, n, n)`: boolean
            (True = may attend) or additive. `(n,)` masks keys for all queries.
        causal: State i sees states 0..i only.
        backend: "dense" stores the matrices; "tiled" and "triton" never do, nor does
            a solver store one larger than a tile.
        axes: Names of the batch dimensions, as `mix` reads them.

    Raises:
        ShapeError: The shapes differ (cross-attention is not a chain), the mask
            does not broadcast, there is no state, or the backend cannot run there.
        ArgumentError: The backend is unknown, the scale is no finite number, or
            queries, keys or mask were changed in place since (by the next use).
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
    axes: Axes = field(default=None, kw_only=True)
    _given: Given = field(init=False)

    def __post_init__(self) -> None:
        check_queries_and_keys(self.q, self.k)
        if self.backend not in get_args(Backend):
            message = (
                "backend must be auto, dense or tiled, or on CUDA triton, but is "
                f"{self.backend!r}"
            )
            raise ArgumentError(message)
        if self.backend == "triton":
            check_fused(self.q.device, self.q.shape[-1])
        scale = self.q.shape[-1] ** -0.5 if self.scale is None else self.scale
        check_number(scale, "scale")
        dtype = computing_dtype(torch.promote_types(self.q.dtype, self.k.dtype))
        parts: dict[str, Any] = {
            "q": watchable(self.q.to(dtype)),
            "k": watchable(self.k.to(dtype)),
            "mask": checked_mask(self.mask, self.q),
            "scale": float(scale),
        }
        for name, part in parts.items():
            object.__setattr__(self, name, part)
        self._watch()

    @property
    def shape(self) -> torch.Size:
        return torch.Size((*self.q.shape[:-1], self.q.shape[-2]))

    @property
    def _part(self) -> Tensor:
        return self.q

    @property
    def row_error(self) -> float:
        """Rounding of scores (d terms each), exponentials and one product."""
        self._given.check()
        return self._row_error

    @property
    def never_stores(self) -> bool:
        return self.backend in ("tiled", "triton")

    @kept
    def _row_error(self) -> float:
        eps, d = torch.finfo(self.dtype).eps, self.q.shape[-1]
        lengths: list[Tensor] = [x.norm(dim=-1) for x in (self.q, self.k)]
        longest = [float(length.max()) for length in lengths]
        largest = abs(self._scale) * math.prod(longest)
        # Steps that a mask makes rarer than the smallest number are zero either way.
        limit = 2 * largest - math.log(torch.finfo(self.dtype).tiny)
        added = max(scores.largest_added(limit) for scores in self._distinct_masks())
        return super().row_error + eps * (2 * (d + 4) * largest + 4 * added)

    @full_precision
    def diagonal(self) -> Float[Tensor, "*batch n"]:
        """Probability of every state to stay where it is: the diagonal of P.

        Cost: one pass over the scores, O(n) memory; the whole matrix where gradients
        are tracked.
        """
        self._given.check()
        if self.tracks_gradients:
            return self.to_dense().diagonal(dim1=-2, dim2=-1)
        staying = [
            tiled.diagonal(scores, head.sums)
            for scores, head in zip(self.scores, self._heads, strict=True)
        ]
        return torch.stack(staying).view(self.q.shape[:-1])

    @full_precision
    def row_entropy(self) -> Float[Tensor, "*batch n"]:
        r"""Entropy of every row in nats, $-\sum_j P_{ij} \ln P_{ij}$.

        Cost: one pass over the scores, O(n) memory.
        """
        return self._reduced(_entropy)

    @full_precision
    def row_squares(self) -> Float[Tensor, "*batch n"]:
        r"""Sum of squares of every row, $\sum_j P_{ij}^2$: two walkers meet at once.

        Cost: one pass over the scores, O(n) memory.
        """
        return self._reduced(_squares)

    def _reduced(self, of: tiled.Reducer) -> Tensor:
        self._given.check()
        pairs = zip(self.scores, self._heads, strict=True)
        rows = [tiled.reduced(scores, head.sums, of) for scores, head in pairs]
        return torch.stack(rows).view(self.q.shape[:-1])

    @overload
    def restrict(self, keep: slice) -> "AttentionTransition": ...
    @overload
    def restrict(self, keep: Tensor) -> "AttentionTransition | Stacked": ...
    def restrict(self, keep: Tensor | slice) -> "AttentionTransition | Stacked":
        """The chain on some states only: softmax again over the kept keys.

        Args:
            keep: Indices, boolean mask (n,) or slice of the states to keep. Or a mask
                for each chain, or each of the first batch dimensions (texts of
                different lengths): then n stays, and the result is `Stacked`.

        Returns:
            The smaller transition. Equals `Restricted` of this one, without ever
            forming a row mass.

        Raises:
            ArgumentError: No state is kept, one is kept twice or does not exist, or
                the states of a causal chain would change their order.
        """
        if for_each(keep):
            return Stacked.restricting(self, keep)
        return self.restricted_to(keep)

    def restricted_to(self, keep: Tensor | slice) -> "AttentionTransition":
        self._given.check()
        if not isinstance(keep, slice):
            keep = kept_states(keep, self.n_states)
            if self.causal and bool((keep.diff() <= 0).any()):
                message = "states of a causal chain must be kept in their own order"
                raise ArgumentError(message)
        mask = self.mask
        if mask is not None:
            mask = mask[..., keep]
            mask = mask[..., keep, :] if mask.shape[-2] > 1 else mask
        q, k = self.q[..., keep, :], self.k[..., keep, :]
        return replace(self, q=q, k=k, mask=mask)

    def to(self, target: Target) -> "AttentionTransition":
        self._given.check()
        mask = self.mask
        if mask is not None and not (
            isinstance(target, torch.dtype) and mask.dtype == torch.bool
        ):
            mask = mask.to(target)
        moved = self._derived if target == torch.float64 else partial(replace, self)
        return moved(q=self.q.to(target), k=self.k.to(target), mask=mask)

    @full_precision
    def to_dense(self) -> Float[Tensor, "*batch n n"]:
        """The softmax matrices: n * n numbers for each chain of the batch.

        Warns:
            MaterializationWarning: They exceed the memory budget.
        """
        self._given.check()
        announce_storage(self.shape, self.dtype, self.device)
        if self.tracks_gradients:
            identity = torch.eye(self.n_states, dtype=self.dtype, device=self.device)
            return self._push(identity.expand(self.shape))
        matrices = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        flat = matrices.view(-1, self.n_states, self.n_states)
        for place, scores, matrix in zip(self._places, self.scores, flat, strict=True):
            check_tops(tiled.fill(scores, matrix), place)
        return matrices

    def _select(self, index: BatchIndex) -> "AttentionTransition":
        self._given.check()
        mask = self.mask
        if mask is not None:
            mask = mask.expand(*self.batch_shape, *mask.shape[-2:])
            mask = batch_select(mask, index, 2)
        q, k = batch_select(self.q, index, 2), batch_select(self.k, index, 2)
        chosen = self._derived if q.numel() else partial(replace, self)
        return chosen(q=q, k=k, mask=mask, axes=remaining(self.axes, index))

    def _derived(self, **parts: Any) -> "AttentionTransition":
        """A copy with other parts, cut or widened from checked ones: not checked."""
        own = {part.name: getattr(self, part.name) for part in fields(self)}
        derived = self._unchecked(**{**own, **parts})
        derived._watch()
        return derived

    def _watch(self) -> None:
        given = Given(q=self.q, k=self.k, mask=self.mask)
        object.__setattr__(self, "_given", given)

    def __repr__(self) -> str:
        form = "stored" if self._stores else "in pieces"
        return f"{super().__repr__()[:-1]}, {form})"

    def _product(self, vectors: Tensor, side: Side) -> Tensor:
        self._given.check()
        if self._stores and not self.tracks_gradients:
            return vectors @ (self._stored if side == "push" else self._stored.mT)
        return tiled_product(
            self._heads, vectors, self.q * self._scale, self.k, side=side
        )

    @property
    def _scale(self) -> float:
        return self.q.shape[-1] ** -0.5 if self.scale is None else self.scale

    @property
    def _stores(self) -> bool:
        """Whether products keep the matrices, where no gradients are tracked."""
        fits = self.backend == "auto" and fits_solving(
            self.shape, self.dtype, self.device
        )
        return fits or self.backend == "dense"

    @kept
    def _stored(self) -> Tensor:
        return self.to_dense()

    @property
    def _places(self) -> list[tuple[int, ...]]:
        """Batch index of every chain, in flattened order."""
        return list(product(*map(range, self.batch_shape)))

    @kept
    def scores(self) -> tuple[tiled.Scores, ...]:
        """What the scores of every chain are made of."""
        n, d = self.q.shape[-2:]
        query = (self.q.detach() * (self._scale * tiled.LOG2_E)).reshape(-1, n, d)
        key = self.k.detach().reshape(-1, n, d)
        masks: list[Tensor | None] = [None] * len(self._places)
        if self.mask is not None:
            mask = self.mask.expand(*self.batch_shape, *self.mask.shape[-2:])
            masks = [mask[place] for place in self._places]
        return tuple(
            tiled.Scores(q, k, m, self.causal)
            for q, k, m in zip(query, key, masks, strict=True)
        )

    def _distinct_masks(self) -> list[tiled.Scores]:
        """Scores of one chain for each mask that was given."""
        first = self.scores[0]
        if self.mask is None:
            return [first]
        masks = self.mask.reshape(-1, *self.mask.shape[-2:])
        return [replace(first, mask=mask) for mask in masks]

    @kept
    def _heads(self) -> tuple[Head, ...]:
        """Every chain ready for products without a stored matrix."""
        if self._fused:
            heads = fused_heads(self.scores, self.q, self.k, self._scale)
        else:
            heads = tuple(TiledHead.prepare(scores) for scores in self.scores)
        for place, head in zip(self._places, heads, strict=True):
            check_tops(head.sums.top, place)
        return heads

    @property
    def _fused(self) -> bool:
        if self.backend == "triton":
            return True
        auto = self.backend == "auto"
        return auto and prefers_fused(self.device, self.dtype, self.q.shape[-1])


def _entropy(p: Tensor, log2: Tensor) -> Tensor:
    return torch.where(p > 0, -p * log2, 0.0) / tiled.LOG2_E


def _squares(p: Tensor, _log2: Tensor) -> Tensor:
    return p * p
