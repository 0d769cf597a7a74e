r"""Products with softmax attention in tiles: O(n) memory, plain torch, any device.

With base-2 scores $s_{ij} = \log_2 e\,(\text{scale}\; q_i \cdot k_j + b_{ij})$ and
their row log-sum-exps $l_i = \log_2 \sum_j 2^{s_{ij}}$ the transition probabilities are
$P_{ij} = 2^{s_{ij} - l_i}$. One pass finds l; every later product is one pass that
forms P tile by tile and multiplies it away. No maximum is subtracted, since
$s_{ij} \le l_i$. The scores of all passes come from the same tiles, so l belongs to
exactly the rounded scores that are exponentiated.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

ROWS, COLUMNS = 256, 1024
"""Tile size: a float32 tile of 1 MiB stays in a core's cache."""

LOG2_E = 1.4426950408889634


@dataclass(frozen=True)
class Scores:
    """Base-2 scores of one head, formed tile by tile.

    Attributes:
        query: (n, d), already multiplied by scale * log2(e).
        key: (n, d).
        mask: None, or a boolean or additive mask of shape (1 or n, n).
        causal: Whether state i sees states 0..i only.
    """

    query: Tensor
    key: Tensor
    mask: Tensor | None
    causal: bool

    def tiles(self) -> Iterator[tuple[slice, slice]]:
        """Row and column ranges that cover every allowed pair of states."""
        n = self.query.shape[0]
        for i in range(0, n, ROWS):
            rows = slice(i, min(i + ROWS, n))
            stop = rows.stop if self.causal else n
            for j in range(0, stop, COLUMNS):
                yield rows, slice(j, min(j + COLUMNS, stop))

    def tile(self, rows: slice, columns: slice, offset: Tensor | None) -> Tensor:
        """Scores of one tile, minus an offset for each row."""
        query, key = self.query[rows], self.key[columns].T
        if offset is None:
            scores = query @ key
        else:
            scores = torch.addmm(offset[rows, None], query, key, beta=-1)
        if self.mask is not None:
            self._apply_mask(scores, rows, columns)
        if self.causal and columns.stop > rows.start:
            i = torch.arange(rows.start, rows.stop, device=scores.device)
            j = torch.arange(columns.start, columns.stop, device=scores.device)
            scores.masked_fill_(j[None, :] > i[:, None], -torch.inf)
        return scores

    def _apply_mask(self, scores: Tensor, rows: slice, columns: slice) -> None:
        mask = self.mask
        if mask is None:
            return
        part = mask[rows if mask.shape[0] > 1 else slice(None), columns]
        if mask.dtype == torch.bool:
            scores.masked_fill_(~part, -torch.inf)
        else:
            scores.add_(part.to(scores.dtype), alpha=LOG2_E)


def row_log_sum_exp(scores: Scores) -> Tensor:
    """Base-2 log-sum-exp of every row, (n,); -inf where a row is fully masked."""
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
    return top + total.log2()


def push(scores: Scores, log_sum: Tensor, vectors: Tensor) -> Tensor:
    """(r, n) row vectors times P."""
    result = torch.zeros_like(vectors)
    for rows, columns in scores.tiles():
        tile = scores.tile(rows, columns, log_sum).exp2_()
        result[:, columns] += vectors[:, rows] @ tile
    return result


def pull(scores: Scores, log_sum: Tensor, observables: Tensor) -> Tensor:
    """P times (r, n) observables, again in the last axis."""
    result = torch.zeros_like(observables)
    for rows, columns in scores.tiles():
        tile = scores.tile(rows, columns, log_sum).exp2_()
        result[:, rows] += observables[:, columns] @ tile.T
    return result


def fill(scores: Scores, log_sum: Tensor, matrix: Tensor) -> None:
    """Writes P into an (n, n) matrix of zeros."""
    for rows, columns in scores.tiles():
        matrix[rows, columns] = scores.tile(rows, columns, log_sum).exp2_()
