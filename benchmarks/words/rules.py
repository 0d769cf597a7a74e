"""Ways to make a map (words, b, patches) of every word from what was attended to."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from reading import Blocks, Reading
from torch import Tensor

from attnchain import propagate, token_rank
from attnchain.markov import Direction
from attnchain.methods import entropy_reduced, refine_map
from attnchain.methods.m2n2 import balance, markov_map
from attnchain.operators import AbstractTransition, Damped, Restricted

Rule = Callable[[Reading, Blocks], Tensor]
POPULAR = 3.0
"""Tokens of more than so many times the mean incoming TokenRank are dropped."""


def _walked(
    chain: AbstractTransition, starts: Tensor, bounces: int, **way: Any
) -> Tensor:
    return torch.stack([propagate(chain, start, bounces, **way) for start in starts])


def walk(
    reading: Reading,
    blocks: Blocks,
    *,
    bounces: int = 1,
    direction: Direction = "outgoing",
    damping: float = 1.0,
    weights: str = "uniform",
) -> Tensor:
    """The paper's walk; "outgoing" with one bounce is column select."""
    chain = reading.chain(blocks, weights)
    chain = Damped(chain, damping) if damping < 1 else chain
    found = _walked(chain, reading.starts, bounces, direction=direction)
    return found[..., reading.grid.patches]


def excess(reading: Reading, blocks: Blocks, *, bounces: int = 1) -> Tensor:
    """How many times the outgoing TokenRank, where walkers end whatever the word."""
    rank = token_rank(reading.chain(blocks), direction="outgoing").distribution
    found = walk(reading, blocks, bounces=bounces)
    return found / rank[..., reading.grid.patches]


def inside(
    reading: Reading,
    blocks: Blocks,
    *,
    bounces: int = 2,
    direction: Direction = "outgoing",
) -> Tensor:
    """First bounce from the word, the others between patches only."""
    first = walk(reading, blocks, direction=direction)
    starts = first / first.sum(-1, keepdim=True)
    chain = reading.patch_chain(blocks)
    return _walked(chain, starts, bounces - 1, direction=direction)


def without_popular(reading: Reading, blocks: Blocks, *, bounces: int = 2) -> Tensor:
    """Without the tokens that draw most, pads and register-like patches among them."""
    chain = reading.chain(blocks)
    rank = token_rank(chain).distribution
    maps = torch.zeros(reading.starts.shape)
    for row in range(len(rank)):
        wanted = reading.starts[:, row]
        keep = (rank[row] * rank.shape[1] <= POPULAR) | (wanted.sum(0) > 0)
        kept = keep.nonzero()[:, 0]
        one = Restricted(chain[row], kept)
        found = _walked(one, wanted[:, kept], bounces, direction="outgoing")
        maps[:, row, kept] = found.to(maps)
    return maps[..., reading.grid.patches]


def words_only(reading: Reading, blocks: Blocks) -> Tensor:
    """Patches' attention to text alone, rows renormalised (like DAAM's maps)."""
    looks = reading.heads[:, list(blocks)][..., reading.grid.patches, :]
    looks = looks[..., list(reading.grid.text)]
    looks = (looks / looks.sum(-1, keepdim=True)).mean((1, 2))
    starts = reading.starts[..., list(reading.grid.text)]
    return torch.einsum("bpt,wbt->wbp", looks, starts)


def concept(reading: Reading, blocks: Blocks) -> Tensor:
    """ConceptAttention: product of attention's outputs at patch and word.

    Its softmax over the words leaves one word nothing to compete with, so a single one
    is compared with the mean of all text tokens.
    """
    starts = reading.starts[..., list(reading.grid.text)]
    scores = []
    for image, text in reading.outputs:
        found = torch.einsum("wbt,btd->wbd", starts, text)
        if len(found) == 1:
            found = torch.cat([found, text.mean(1)[None]])
        scores.append(torch.einsum("wbd,bpd->wbp", found, image))
    return torch.stack(scores).mean(0).softmax(0)[: len(starts)]


def iseg(reading: Reading, blocks: Blocks) -> Tensor:
    """iSeg: the word's column refined by thinned attention between patches."""
    chain, columns = entropy_reduced(reading.patch_chain(blocks)), walk(reading, blocks)
    rows = range(len(reading.words))
    refined = [[refine_map(chain[row], one[row], 5) for row in rows] for one in columns]
    return torch.stack([torch.stack(one) for one in refined])


def m2n2(reading: Reading, blocks: Blocks) -> Tensor:
    """M2N2's markov map of balanced attention from the word's column; early is near."""
    columns, maps = walk(reading, blocks), []
    for row in range(columns.shape[1]):
        chain = balance(reading.patch_chain(blocks)[row])
        starts = columns[:, row] / columns[:, row].sum(-1, keepdim=True)
        times = torch.stack([markov_map(chain, one, limit=100) for one in starts])
        maps.append(times.amax(-1, keepdim=True) - times)
    return torch.stack(maps, 1)


COLUMN = "column select"
CHEAP: dict[str, Rule] = {
    COLUMN: walk,
    "row select": partial(walk, direction="incoming"),
    **{f"column, {n} bounces": partial(walk, bounces=n) for n in range(2, 6)},
    **{
        f"row, {n} bounces": partial(walk, bounces=n, direction="incoming")
        for n in range(2, 6)
    },
    "column, 2 bounces, damping .85": partial(walk, bounces=2, damping=0.85),
    "excess over TokenRank, 1 bounce": excess,
    "excess over TokenRank, 2 bounces": partial(excess, bounces=2),
    "text dropped, 2 column bounces": inside,
    "text dropped, 3 column bounces": partial(inside, bounces=3),
    "text dropped, 2 row bounces": partial(inside, direction="incoming"),
    "words only (DAAM)": words_only,
}
"""Rules that are tried with every block alone and all together, at every noise."""
WHOLE: dict[str, Rule] = {
    "popular tokens dropped, 2 bounces": without_popular,
    "ConceptAttention": concept,
    "iSeg": iseg,
    "M2N2": m2n2,
    "lambda_2 weights, column select": partial(walk, weights="lambda2"),
    "lambda_2 weights, 2 column bounces": partial(walk, weights="lambda2", bounces=2),
}
"""Rules that read all blocks, at the noise that suits column select of all blocks."""
