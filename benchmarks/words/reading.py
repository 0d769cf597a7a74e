"""What the model attends to when it is shown pictures, all of one batch together."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from model import packed, places, token_numbers
from torch import Tensor

from attnchain import capture, mix
from attnchain.capturing import TextTokens, TokenGrid, prompt_tokens
from attnchain.operators import AbstractTransition, DenseTransition, Restricted
from attnchain.text import TextAttention

Blocks = tuple[int, ...]


@dataclass(frozen=True)
class Reading:
    """Attention of a batch of pictures at one noise level.

    Attributes:
        heads: A chain for every picture, block and head, (b, blocks, heads, n, n),
            text first.
        outputs: Of the two-stream blocks, attention's output at patches and at words.
        tokens: Characters that each text token stands for, by picture.
        words: The words to look for, by picture, as many in each.
        grid: Where text and patches lie.
    """

    heads: Tensor
    outputs: list[tuple[Tensor, Tensor]]
    tokens: list[TextTokens]
    words: list[tuple[str, ...]]
    grid: TokenGrid

    @property
    def blocks(self) -> Blocks:
        return tuple(range(self.heads.shape[1]))

    def chain(self, blocks: Blocks, weights: str = "uniform") -> AbstractTransition:
        """One chain for every picture, out of the heads of some blocks."""
        if weights == "uniform":
            return DenseTransition(self.heads[:, list(blocks)].mean((1, 2)))
        mixed = [
            mix(DenseTransition(heads[list(blocks)].flatten(0, 1)), weights).to_dense()
            for heads in self.heads
        ]
        return DenseTransition(torch.stack(mixed))

    def patch_chain(self, blocks: Blocks) -> AbstractTransition:
        """The same between patches only: text dropped, rows renormalised."""
        keep = torch.arange(self.grid.n_tokens)[self.grid.patches]
        return Restricted(self.chain(blocks), keep)

    @cached_property
    def starts(self) -> Tensor:
        """Even on the tokens of each word, (words, b, n)."""
        found = torch.zeros(len(self.words[0]), len(self.words), self.grid.n_tokens)
        for row, (tokens, words) in enumerate(
            zip(self.tokens, self.words, strict=True)
        ):
            for number, word in enumerate(words):
                places_of = list(tokens.find(word, grid=self.grid))
                found[number, row, places_of] = 1 / len(places_of)
        return found

    def attention(self, row: int, blocks: Blocks) -> TextAttention:
        """What `attnchain.text` would read of one picture."""
        chain = self.chain(blocks)[row]
        return TextAttention(chain, self.grid, self.tokens[row])


@torch.no_grad()
def read(  # noqa: PLR0917  (a pass and what to look for)
    pipeline: Any,
    pixels: Tensor,
    prompts: Sequence[str],
    words: Sequence[tuple[str, ...]],
    noise: float,
    seed: int = 0,
) -> Reading:
    """One pass over pictures (b, 3, 32, 32) in [0, 1] at a noise level in (0, 1]."""
    clean = packed(pipeline.vae.encode(2 * pixels - 1).latent_dist.mode())
    drawn = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    text = pipeline.text_encoder_2(token_numbers(list(prompts)))[0]
    outputs: list[tuple[Tensor, Tensor]] = []
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
    return Reading(
        torch.stack([record.transition().to_dense() for record in records], 1),
        outputs,
        [prompt_tokens(pipeline, prompt, text.shape[1]) for prompt in prompts],
        list(words),
        records[0].grid,
    )
