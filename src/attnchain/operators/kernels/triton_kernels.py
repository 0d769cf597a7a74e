"""Push and pull of softmax attention as fused Triton kernels.

The same two passes as `tiled`: row maxima and sums first, then products whose score
tiles never leave the chip. A float32 chain accumulates in float32, and its queries and
keys are read in half precision where that holds their numbers exactly; a float64 chain,
as certificates need it, is computed in float64 throughout. Imported only when used,
since Triton is optional.
"""

# pyright: basic, reportArgumentType=false, reportMissingImports=false
# pyright: reportIndexIssue=false
# Triton has no types; where it is missing, its jitted functions look like plain ones.
# Triton kernels take pointers and sizes by position, without annotations:
# ruff: noqa: ANN001, ANN202, N803, PLR0913, PLR0917

import os
from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from attnchain.operators.kernels.prepared import Side
from attnchain.operators.kernels.tiled import LOG2_E, Rows


@triton.jit
def _rows(base, index, n, d, WIDTH: tl.constexpr):
    """Some rows of an (n, d) matrix, zeros beyond its edges."""
    feature = tl.arange(0, WIDTH)
    inside = (index < n)[:, None] & (feature < d)[None, :]
    return tl.load(base + index[:, None] * d + feature[None, :], mask=inside, other=0.0)


@triton.jit
def _dot(left, right):
    """A matrix product as precise as its factors."""
    if left.dtype == tl.float64:
        return tl.dot(left, right, out_dtype=tl.float64)
    return tl.dot(left, right, input_precision="tf32x3")


@triton.jit
def _scores(
    query,
    key,
    i,
    j,
    n,
    mask,
    mask_row,
    mask_column,
    factor,
    MASK: tl.constexpr,
    CAUSAL: tl.constexpr,
):
    """Base-2 scores of one tile; -inf where a query may not attend."""
    scores = _dot(query, tl.trans(key)) * factor
    allowed = (i < n)[:, None] & (j < n)[None, :]
    if MASK > 0:
        rows = i.to(tl.int64) * mask_row
        place = mask + rows[:, None] + j[None, :] * mask_column
        given = tl.load(place, mask=allowed, other=0)
        if MASK == 1:
            allowed = allowed & (given != 0)
        else:
            log2_e = tl.full([1, 1], 1.4426950408889634, scores.dtype)
            scores += given.to(scores.dtype) * log2_e
    if CAUSAL:
        allowed = allowed & (j[None, :] <= i[:, None])
    return tl.where(allowed, scores, float("-inf"))


@triton.jit
def _sums_kernel(
    query,
    key,
    mask,
    tops,
    totals,
    n,
    d,
    mask_row,
    mask_column,
    factor,
    MASK: tl.constexpr,
    CAUSAL: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    first = tl.program_id(0) * BLOCK
    i = first + tl.arange(0, BLOCK)
    own = _rows(query, i, n, d, WIDTH)
    number = tops.dtype.element_ty
    top = tl.full([BLOCK], float("-inf"), number)
    total = tl.zeros([BLOCK], number)
    stop = tl.minimum(first + BLOCK, n) if CAUSAL else n
    for start in range(0, stop, BLOCK):
        j = start + tl.arange(0, BLOCK)
        other = _rows(key, j, n, d, WIDTH)
        scores = _scores(
            own, other, i, j, n, mask, mask_row, mask_column, factor, MASK, CAUSAL
        )
        peak = tl.maximum(top, tl.max(scores, 1))
        offset = tl.where(peak == float("-inf"), 0.0, peak)
        total = total * tl.exp2(top - offset)
        total += tl.sum(tl.exp2(scores - offset[:, None]), 1)
        top = peak
    tl.store(tops + i, top, mask=i < n)
    tl.store(totals + i, total, mask=i < n)


@triton.jit
def _product_kernel(
    query,
    key,
    mask,
    tops,
    vectors,
    result,
    n,
    d,
    count,
    mask_row,
    mask_column,
    factor,
    PUSH: tl.constexpr,
    MASK: tl.constexpr,
    CAUSAL: tl.constexpr,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    first = tl.program_id(0) * BLOCK
    own = first + tl.arange(0, BLOCK)
    c = tl.arange(0, COLUMNS)
    row = _rows(key if PUSH else query, own, n, d, WIDTH)
    summed = tl.zeros([COLUMNS, BLOCK], tops.dtype.element_ty)
    begin = first if PUSH and CAUSAL else 0
    stop = tl.minimum(first + BLOCK, n) if CAUSAL and not PUSH else n
    for start in range(begin, stop, BLOCK):
        other = start + tl.arange(0, BLOCK)
        line = _rows(query if PUSH else key, other, n, d, WIDTH)
        known = (c < count)[:, None] & (other < n)[None, :]
        value = tl.load(
            vectors + c[:, None] * n + other[None, :], mask=known, other=0.0
        )
        i = other if PUSH else own
        j = own if PUSH else other
        left = line if PUSH else row
        right = row if PUSH else line
        scores = _scores(
            left, right, i, j, n, mask, mask_row, mask_column, factor, MASK, CAUSAL
        )
        top = tl.load(tops + i, mask=i < n, other=0.0)
        chance = tl.exp2(scores - top[:, None])
        if not PUSH:
            chance = tl.trans(chance)
        if COLUMNS == 1:
            summed += tl.sum(tl.trans(value) * chance, 0)[None, :]
        else:
            summed += _dot(value, chance)
    place = result + c[:, None] * n + own[None, :]
    tl.store(place, summed, mask=(c < count)[:, None] & (own < n)[None, :])


@dataclass(frozen=True)
class FusedHead:
    """One chain whose products run in Triton.

    Attributes:
        query: (n, d), contiguous.
        key: (n, d), contiguous, of the same dtype.
        mask: None, or a boolean or additive mask of shape (1 or n, n).
        causal: Whether state i sees states 0..i only.
        factor: What scores still lack: scale and log2(e), or 1.
        sums: Row maxima and sums.
    """

    query: Tensor
    key: Tensor
    mask: Tensor | None
    causal: bool
    factor: float
    sums: Rows

    @classmethod
    def prepare(
        cls,
        query: Tensor,
        key: Tensor,
        *,
        mask: Tensor | None,
        causal: bool,
        scale: float,
    ) -> "FusedHead":
        """Makes the pass that finds the row maxima and sums."""
        empty = torch.empty(len(query), dtype=query.dtype, device=query.device)
        query, key = query.contiguous(), key.contiguous()
        factor = scale * LOG2_E
        if query.dtype == torch.float32:
            query, key = _narrowed(query, key)
        else:  # Triton passes numbers in single precision
            query, factor = query * factor, 1.0
        sums = Rows(empty, torch.empty_like(empty))
        head = cls(query, key, mask, causal, factor, sums)
        _sums_kernel[head.grid](
            query, key, *head.mask_start, sums.top, sums.total, **head.shared
        )
        # A score that is not a number shows in the total only.
        return replace(head, sums=Rows(sums.top + 0 * sums.total, sums.total))

    def multiply(self, vectors: Tensor, side: Side) -> Tensor:
        """(r, n) vectors times P, or P times them."""
        vectors = vectors.contiguous()
        if side == "push":
            vectors = vectors / self.sums.total
        parts = [
            self._launch(v, side) for v in vectors.split(most_columns(vectors.dtype))
        ]
        result = torch.cat(parts)
        return result if side == "push" else result / self.sums.total

    def _launch(self, vectors: Tensor, side: Side) -> Tensor:
        count = len(vectors)
        result = torch.empty_like(vectors)
        _product_kernel[self.grid](
            self.query,
            self.key,
            *self.mask_start,
            self.sums.top,
            vectors,
            result,
            count=count,
            PUSH=side == "push",
            COLUMNS=1 if count == 1 else max(16, triton.next_power_of_2(count)),
            **self.shared,
        )
        return result

    @property
    def grid(self) -> tuple[int]:
        """One program for each block of states."""
        return (triton.cdiv(len(self.query), self.shared["BLOCK"]),)

    @property
    def mask_start(self) -> tuple[Tensor]:
        """What the kernel gets as mask; the queries stand in where there is none."""
        if self.mask is None:
            return (self.query,)
        boolean = self.mask.dtype == torch.bool
        return (self.mask.view(torch.uint8) if boolean else self.mask,)

    @property
    def shared(self) -> dict[str, Any]:
        """Arguments of every launch."""
        n, d = self.query.shape
        mask = self.mask
        row, column = (0, 0) if mask is None else mask.stride()
        width = max(16, triton.next_power_of_2(d))
        return {
            "n": n,
            "d": d,
            "mask_row": row if mask is not None and len(mask) > 1 else 0,
            "mask_column": column,
            "factor": self.factor,
            "MASK": 0 if mask is None else 1 if mask.dtype == torch.bool else 2,
            "CAUSAL": self.causal,
            "WIDTH": width,
            **launch_options(width, self.query.dtype),
        }


def interpreting() -> bool:
    """Whether Triton runs its kernels in Python, for debugging."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def launch_options(width: int, dtype: torch.dtype) -> dict[str, int]:
    """States in a block and tiles in flight, so that shared memory holds them.

    At most 113 KiB with the most columns; an A100 has 163 KiB, an H100 227.
    """
    if dtype == torch.float64:
        return {"BLOCK": 32 if width <= 128 else 16, "num_stages": 1}
    if dtype == torch.float32:
        return {"BLOCK": 64 if width <= 64 else 32, "num_stages": 2}
    return {"BLOCK": 64 if width <= 128 else 32, "num_stages": 3}


def most_columns(dtype: torch.dtype) -> int:
    """Vectors in one launch."""
    return 16 if dtype == torch.float64 else 64


def _narrowed(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Half precision where it holds the given numbers exactly, else float32."""
    halves = (torch.float16, torch.bfloat16)
    if interpreting():  # its dot products take bfloat16 for integers
        halves = (torch.float16,)
    for dtype in halves:
        q, k = query.to(dtype), key.to(dtype)
        if torch.equal(q.float(), query) and torch.equal(k.float(), key):
            return q, k
    return query, key
