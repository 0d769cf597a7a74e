r"""Products with softmax attention in tiles: O(n) memory, plain torch, any device.

With base-2 scores $s_{ij} = \log_2 e\,(\text{scale}\; q_i \cdot k_j + b_{ij})$, their
row maxima t and sums $u_i = \sum_j 2^{s_{ij} - t_i}$, the transition probabilities are
$P_{ij} = 2^{s_{ij} - t_i} / u_i$. One pass finds t and u; every later product is one
pass that forms the exponentials tile by tile and multiplies them away. The scores of
all passes come from the same tiles, so t and u belong to exactly the rounded scores
that are exponentiated; t and u are kept apart, since $t + \log_2 u$ would round to the
spacing of large scores.
"""

# pyright: reportUnknownMemberType=false

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from torch import Tensor

ROWS, COLUMNS = 256, 2048
"""Tile size: larger tiles fall out of the caches, smaller ones waste calls."""
FILLED = 2**20
"""Numbers in a block of rows that is written at once."""

LOG2_E = 1.4426950408889634
Reducer = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Scores:
    """Base-2 scores of one head, formed tile by tile.

    Attributes:
        query: (m, d), already multiplied by scale * log2(e); m = n but for rows of
            some states only, which cannot be causal.
        key: (n, d).
        mask: None, or a boolean or additive mask of shape (1 or m, n).
        causal: Whether state i sees states 0..i only.
    """

    query: Tensor
    key: Tensor
    mask: Tensor | None
    causal: bool

    @cached_property
    def lift(self) -> Tensor | None:
        """Largest number an additive mask adds in each row, None where all are zero.

        It is taken off before the numbers are added: a softmax does not see it, but
        scores would be rounded to its spacing. (1 or m,), in the mask's precision.
        """
        if self.mask is None or self.mask.dtype == torch.bool:
            return None
        lift = _largest_added(self.mask, self.causal)
        lift = torch.where(torch.isneginf(lift), 0.0, lift)
        return lift if bool(lift.any()) else None

    def added(self, rows: slice, columns: slice) -> Tensor | None:
        """What an additive mask adds to natural scores in a tile, at most zero."""
        mask = self.mask
        if mask is None or mask.dtype == torch.bool:
            return None
        part = mask[rows if len(mask) > 1 else slice(None), columns]
        part = part.to(torch.promote_types(mask.dtype, self.key.dtype))
        lift = self.lift
        if lift is None:
            return part
        return part - lift[rows if len(lift) > 1 else slice(None), None]

    @property
    def lifted_mask(self) -> Tensor | None:
        """The mask less `lift`, None where that has more numbers than were given."""
        mask, lift = self.mask, self.lift
        if mask is None or lift is None or len(lift) > len(mask):
            return mask if lift is None else None
        whole = slice(None)
        return self.added(whole, whole)

    def largest_added(self, limit: float) -> float:
        """Largest size of what a mask adds, of numbers above -limit."""
        if self.mask is None or self.mask.dtype == torch.bool:
            return 0.0
        worst = torch.zeros((), dtype=torch.float64, device=self.key.device)
        for rows, columns in self.tiles():
            added = self.added(rows, columns)
            if added is not None:
                size = torch.where(added > -limit, -added, 0.0).amax()
                worst = torch.maximum(worst, size.double())
        return float(worst)

    def tiles(self) -> Iterator[tuple[slice, slice]]:
        """Row and column ranges that cover every allowed pair of states."""
        m, n = len(self.query), len(self.key)
        for i in range(0, m, ROWS):
            rows = slice(i, min(i + ROWS, m))
            stop = rows.stop if self.causal else n
            for j in range(0, stop, COLUMNS):
                yield rows, slice(j, min(j + COLUMNS, stop))

    def tile(
        self,
        rows: slice,
        columns: slice,
        offset: Tensor | None,
        *,
        out: Tensor | None = None,
    ) -> Tensor:
        """Scores of one tile, minus an offset for each row."""
        scores = torch.mm(self.query[rows], self.key[columns].T, out=out)
        if self.mask is not None:
            self._apply_mask(scores, rows, columns)
        if self.causal and columns.stop > rows.start:
            i = torch.arange(rows.start, rows.stop, device=scores.device)
            j = torch.arange(columns.start, columns.stop, device=scores.device)
            scores.masked_fill_(j[None, :] > i[:, None], -torch.inf)
        return scores if offset is None else scores.sub_(offset[rows, None])

    def _apply_mask(self, scores: Tensor, rows: slice, columns: slice) -> None:
        mask, added = self.mask, self.added(rows, columns)
        if added is not None:
            scores.add_(added.to(scores.dtype), alpha=LOG2_E)
        elif mask is not None:
            part = mask[rows if len(mask) > 1 else slice(None), columns]
            scores.masked_fill_(~part, -torch.inf)


@dataclass(frozen=True)
class Rows:
    """Base-2 score maximum and sum of exponentials of every row, both (n,)."""

    top: Tensor
    total: Tensor


def row_sums(scores: Scores) -> Rows:
    """One pass over the scores; top is -inf where a row is fully masked."""
    query = scores.query
    top = query.new_full((query.shape[0],), -torch.inf)
    total = torch.zeros_like(top)
    for rows, columns in scores.tiles():
        tile = scores.tile(rows, columns, None)
        peak = torch.maximum(top[rows], tile.amax(-1))
        base = torch.where(torch.isneginf(peak), 0.0, peak)
        total[rows] *= torch.exp2(top[rows] - base)
        total[rows] += tile.sub_(base[:, None]).exp2_().sum(-1)
        top[rows] = peak
    return Rows(top, total)


def push(scores: Scores, sums: Rows, vectors: Tensor) -> Tensor:
    """(r, m) row vectors times P: (r, n)."""
    result = vectors.new_zeros(len(vectors), len(scores.key))
    weighted = vectors / sums.total
    for rows, columns in scores.tiles():
        tile = scores.tile(rows, columns, sums.top).exp2_()
        result[:, columns] += weighted[:, rows] @ tile
    return result


def pull(scores: Scores, sums: Rows, observables: Tensor) -> Tensor:
    """P times (r, n) observables, again in the last axis: (r, m)."""
    result = observables.new_zeros(len(observables), len(scores.query))
    for rows, columns in scores.tiles():
        tile = scores.tile(rows, columns, sums.top).exp2_()
        result[:, rows] += observables[:, columns] @ tile.T
    return result / sums.total


def fill(scores: Scores, matrix: Tensor) -> Tensor:
    """Writes P over an (n, n) matrix in one pass; gives the row maxima, (n,)."""
    n = matrix.shape[0]
    top = matrix.new_empty(n)
    step = max(1, FILLED // n)
    for i in range(0, n, step):
        rows = slice(i, min(i + step, n))
        columns = slice(0, rows.stop if scores.causal else n)
        block = scores.tile(rows, columns, None, out=matrix[rows, columns])
        matrix[rows, columns.stop :] = 0
        top[rows] = block.amax(-1)
        block.sub_(top[rows, None]).exp2_()
        block.div_(block.sum(-1, keepdim=True))
    return top


def diagonal(scores: Scores, sums: Rows) -> Tensor:
    """Diagonal of P, (n,)."""
    own = (scores.query * scores.key).sum(-1)
    mask, lift = scores.mask, scores.lift
    if mask is not None:
        part = mask.diagonal() if mask.shape[0] > 1 else mask[0]
        if mask.dtype == torch.bool:
            own = own.masked_fill(~part, -torch.inf)
        else:
            part = part.to(torch.promote_types(part.dtype, own.dtype))
            part = part if lift is None else part - lift
            own = own + LOG2_E * part.to(own.dtype)
    return torch.exp2(own - sums.top) / sums.total


def reduced(scores: Scores, sums: Rows, of: Reducer) -> Tensor:
    """Sum over j of a function of P_ij and its logarithm to base 2, (n,)."""
    result = torch.zeros_like(sums.total)
    log_total = sums.total.log2()
    for rows, columns in scores.tiles():
        logs = scores.tile(rows, columns, sums.top).sub_(log_total[rows, None])
        result[rows] += of(logs.exp2(), logs).sum(-1)
    return result


def _largest_added(mask: Tensor, causal: bool) -> Tensor:
    """Largest entry of every row of a mask (1 or m, n) that a query may see."""
    if not causal:
        return mask.amax(-1)
    if len(mask) == 1:
        return mask[0].cummax(0).values
    state = torch.arange(len(mask), device=mask.device)
    blocks = cast("tuple[Tensor, ...]", state.split(ROWS))
    tops: list[Tensor] = []
    for rows in blocks:
        future = state[None, :] > rows[:, None]
        tops.append(mask[rows].masked_fill(future, -torch.inf).amax(-1))
    return torch.cat(tops)
