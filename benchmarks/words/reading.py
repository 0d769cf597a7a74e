"""What the model attends to when it is shown pictures, and maps of words out of it."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from model import packed, places, token_numbers
from torch import Tensor

from attnchain import capture, mix, propagate, token_rank
from attnchain.capturing import TextTokens, TokenGrid, prompt_tokens
from attnchain.markov import Direction
from attnchain.methods import entropy_reduced, refine_map
from attnchain.methods.m2n2 import balance, markov_map
from attnchain.operators import AbstractTransition, DenseTransition, Restricted
from attnchain.text import TextAttention

Blocks = tuple[int, ...]
Outputs = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Reading:
    """Attention of one picture at one noise level.

    Attributes:
        heads: A chain for every block and head, (blocks, heads, n, n), text first.
        outputs: Of the two-stream blocks, attention's output at patches and at words.
        tokens: Characters of the prompt that each text token stands for.
        grid: Where text and patches lie.
    """

    heads: Tensor
    outputs: Outputs
    tokens: TextTokens
    grid: TokenGrid

    def chain(self, blocks: Blocks, weights: str = "uniform") -> AbstractTransition:
        """One chain out of the heads of some blocks."""
        if weights == "uniform":
            return DenseTransition(self.heads[list(blocks)].mean((0, 1)))
        return mix([DenseTransition(self.heads[b]) for b in blocks], weights)

    def attention(self, blocks: Blocks, weights: str = "uniform") -> TextAttention:
        """What `attnchain.text` reads of the same pass."""
        return TextAttention(self.chain(blocks, weights), self.grid, self.tokens)

    @cached_property
    def blocks(self) -> Blocks:
        return tuple(range(len(self.heads)))


@torch.no_grad()
def read(
    pipeline: Any, pixels: Tensor, prompts: Sequence[str], noise: float, seed: int
) -> list[Reading]:
    """One pass over pictures (b, 3, 32, 32) in [0, 1] at a noise level in (0, 1]."""
    latents = pipeline.vae.encode(2 * pixels - 1).latent_dist.mode()
    clean = packed(latents)
    drawn = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    text = pipeline.text_encoder_2(token_numbers(list(prompts)))[0]
    outputs: Outputs = []
    with ExitStack() as stack:
        for block in pipeline.transformer.transformer_blocks:
            hook = block.attn.register_forward_hook(lambda *a: outputs.append(a[-1]))
            stack.callback(hook.remove)
        captured = stack.enter_context(capture(pipeline.transformer))
        pipeline.transformer(
            hidden_states=(1 - noise) * clean + noise * drawn,
            encoder_hidden_states=text,
            pooled_projections=torch.zeros(len(clean), 8),
            timestep=torch.full((len(clean),), noise),
            img_ids=places(),
            txt_ids=torch.zeros(text.shape[1], 3),
        )
    records = captured.matching(kind="joint")
    heads = torch.stack([r.transition().to_dense() for r in records], 1)
    grid, length = records[0].grid, text.shape[1]
    return [
        Reading(
            heads[row],
            [(image[row], words[row]) for image, words in outputs],
            prompt_tokens(pipeline, prompts[row], length),
            grid,
        )
        for row in range(len(clean))
    ]


Rule = Callable[[Reading, Sequence[str], Blocks], Tensor]
"""Maps (words, patches) of the words of a prompt, from the heads of some blocks."""


def walk(  # noqa: PLR0913  (the paper's knobs, one by one)
    reading: Reading,
    words: Sequence[str],
    blocks: Blocks,
    *,
    bounces: int = 1,
    direction: Direction = "outgoing",
    damping: float = 1.0,
    weights: str = "uniform",
) -> Tensor:
    """The library's walk from a word; "outgoing" with one bounce is column select."""
    attention = reading.attention(blocks, weights)
    options: Any = {"direction": direction, "damping": damping}
    return torch.stack([attention.walk(word, bounces, **options) for word in words])


def _patch_chain(reading: Reading, blocks: Blocks) -> AbstractTransition:
    keep = torch.arange(reading.grid.n_tokens)[reading.grid.patches]
    return Restricted(reading.chain(blocks), keep)


def excess(
    reading: Reading, words: Sequence[str], blocks: Blocks, bounces: int = 1
) -> Tensor:
    """How many times the outgoing TokenRank, where walkers end whatever the word."""
    chain = reading.chain(blocks)
    rank = token_rank(chain, direction="outgoing").distribution
    return walk(reading, words, blocks, bounces=bounces) / rank[reading.grid.patches]


def inside(
    reading: Reading,
    words: Sequence[str],
    blocks: Blocks,
    bounces: int = 2,
    direction: Direction = "outgoing",
) -> Tensor:
    """First bounce from the word, the others between patches only: text dropped."""
    start = walk(reading, words, blocks, direction=direction)
    chain = _patch_chain(reading, blocks)
    walkers = start / start.sum(-1, keepdim=True)
    options: Any = {"direction": direction}
    return torch.stack([propagate(chain, w, bounces - 1, **options) for w in walkers])


def unpopular(
    reading: Reading, words: Sequence[str], blocks: Blocks, bounces: int = 2
) -> Tensor:
    """Without the tokens that draw more than thrice their share, pads among them."""
    chain = reading.chain(blocks)
    rank = token_rank(chain).distribution
    wanted = [reading.tokens.find(word, grid=reading.grid) for word in words]
    keep = rank * len(rank) <= 3
    keep[[token for tokens in wanted for token in tokens]] = True
    kept = keep.nonzero()[:, 0]
    place = torch.full((len(rank),), -1).index_put((kept,), torch.arange(len(kept)))
    left = Restricted(chain, kept)
    maps = torch.zeros(len(words), len(rank))
    for row, tokens in zip(maps, wanted, strict=True):
        start = tuple(int(place[t]) for t in tokens)
        row[kept] = propagate(left, start, bounces, direction="outgoing").float()
    return maps[:, reading.grid.patches]


def cross(reading: Reading, words: Sequence[str], blocks: Blocks) -> Tensor:
    """Patches' attention to words alone, rows renormalised (like DAAM's maps)."""
    looks = reading.heads[list(blocks)][..., reading.grid.patches, :]
    looks = looks[..., list(reading.grid.text)]
    looks = (looks / looks.sum(-1, keepdim=True)).mean((0, 1))
    found = [list(reading.tokens.find(word)) for word in words]
    return torch.stack([looks[:, tokens].sum(-1) for tokens in found])


def concept(reading: Reading, words: Sequence[str], blocks: Blocks) -> Tensor:
    """ConceptAttention: product of attention's outputs, softmax over the words."""
    maps = []
    for image, text in reading.outputs:
        found = [text[list(reading.tokens.find(word))].mean(0) for word in words]
        maps.append(torch.stack(found) @ image.mT)
    scores = torch.stack(maps).mean(0)
    return scores.softmax(0) if len(words) > 1 else scores - scores.min()


def iseg(reading: Reading, words: Sequence[str], blocks: Blocks) -> Tensor:
    """iSeg: the word's column refined by thinned attention between patches."""
    chain = entropy_reduced(_patch_chain(reading, blocks))
    return refine_map(chain, walk(reading, words, blocks), 5)


def m2n2(reading: Reading, words: Sequence[str], blocks: Blocks) -> Tensor:
    """M2N2's markov map of balanced attention from the word's column; early is near."""
    chain = balance(_patch_chain(reading, blocks))
    start = walk(reading, words, blocks)
    times = [markov_map(chain, one / one.sum(), limit=200) for one in start]
    return torch.stack([t.max() - t + 1e-6 for t in times])
