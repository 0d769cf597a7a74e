"""Attention between a prompt and a picture, as one chain over both.

`text_attention` reads what `capture` kept of a diffusion model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.capturing import (
    AbstractRecord,
    CapturedAttention,
    Numbers,
    Selection,
    TextTokens,
    TokenGrid,
    prompt_tokens,
)
from attnchain.checks import check_whole
from attnchain.errors import GridError, SiteNotFoundError, WordNotFoundError
from attnchain.markov import Direction, mix, propagate
from attnchain.operators import AbstractTransition, Damped, stored

if TYPE_CHECKING:
    from PIL.Image import Image

Weights = Literal["lambda2", "uniform"]


@dataclass(frozen=True, eq=False)
class TextAttention:
    """Attention between a prompt and a picture, mixed over blocks, steps and heads.

    Attributes:
        chain: One chain; over text and patches (joint attention), or over patches
            alone (self-attention of a UNet).
        grid: Where patches and text lie among the states of the chain.
        tokens: Characters of the prompt that each text token stands for.
        columns: For cross-attention, how strongly each patch looks at each text
            token; None for joint attention.
        picture: The picture, to draw segments over; None where it is not known.
    """

    chain: AbstractTransition
    grid: TokenGrid
    tokens: TextTokens
    columns: Float[Tensor, "text n"] | None = None
    picture: "Image | None" = None

    def walk(
        self,
        word: str,
        bounces: int = 2,
        *,
        direction: Direction = "outgoing",
        damping: float = 0.99,
    ) -> Float[Tensor, " n"]:
        r"""Where walkers from a word are among the patches.

        They start evenly on the word's tokens. With $T = \alpha P + (1 - \alpha)
        \mathbf 1 \mathbf 1^\top / n$ and its column-normalised form C, the walk is
        $v_0 T^n$ (incoming) or $v_0 C^n$ (outgoing) in joint attention. A UNet's text
        attends to nothing: the first bounce follows the word's columns of
        cross-attention back to the patches, the others go through self-attention.

        Args:
            word: A word or phrase of the prompt.
            bounces: Number n of bounces, the one from the word included.
            direction: "incoming" goes where attention goes, first to the patches the
                word looks at (row select); "outgoing" goes where it comes from, first
                to the patches that look at the word (column select).
            damping: alpha, in (0, 1].

        Returns:
            The distribution over the patches; in joint attention it sums to less than
            one, since some walkers are on text tokens.

        Raises:
            WordNotFoundError: The word is not in the prompt, beyond its end, or masked.
            ArgumentError: Fewer than one bounce, or an unknown direction.
        """
        check_whole(bounces, "bounces")
        chain = Damped(self.chain, damping)
        if self.columns is not None:
            columns = self.columns[list(self.tokens.find(word))]
            looks = columns.sum(-1, keepdim=True)
            if not bool((looks > 0).all()):
                message = f"no patch attends to {word!r}: its tokens are masked"
                raise WordNotFoundError(message)
            start = (columns / looks).mean(0)
            return propagate(chain, start, bounces - 1, direction=direction)
        tokens = self.tokens.find(word, grid=self.grid)
        places = propagate(chain, tokens, bounces, direction=direction)
        return places[self.grid.patches]


def together(levels: Sequence[TextAttention]) -> TextAttention:
    """One chain out of several noise levels or steps, each counting the same.

    Args:
        levels: Of one picture and one prompt.

    Raises:
        ArgumentError: There is none.
        ShapeError: They are not over the same states.
    """
    if len(levels) == 1:
        return levels[0]
    columns = [level.columns for level in levels if level.columns is not None]
    return replace(
        levels[0],
        chain=stored(mix([level.chain for level in levels], "uniform")),
        columns=torch.stack(columns).mean(0) if columns else None,
    )


def text_attention(
    captured: CapturedAttention,
    *,
    pipeline: Any,
    prompt: str,
    weights: Weights = "lambda2",
    resolution: tuple[int, int] | None = None,
    steps: Numbers = None,
    picture: int = 0,
) -> TextAttention:
    """Reads the attention between prompt and picture from a captured run.

    Joint attention is used where there is any (FLUX, Stable Diffusion 3), else
    cross-attention with self-attention at the same resolution (Stable Diffusion 1, 2
    and XL, PixArt). Under guidance the conditional side is read. What `capture` kept
    is what is mixed: choose blocks and steps there.

    Args:
        captured: What `capture` kept of one run of the pipeline.
        pipeline: The diffusers pipeline that ran.
        prompt: The prompt it was given.
        weights: "lambda2" or "uniform" over blocks, steps and heads, see `mix`; the
            guide on words has both measured. Cross-attention, which is no chain, is
            always averaged uniformly.
        resolution: Rows and columns of the patch grid to read in a UNet; by default
            the largest that was captured.
        steps: Denoising steps to mix, of those that were captured; all by default.
        picture: Number of the picture in the batch.

    Returns:
        `TextAttention`.

    Raises:
        SiteNotFoundError: No attention to text was captured, or none at that
            resolution.
        GridError: Records of different token layouts cannot be mixed.
        UnsupportedModelError: The order of this pipeline's text tokens is not known.
        ArgumentError: There is no such picture, or the weights are unknown.
    """
    kinds = _kinds(captured)
    if "joint" in kinds:
        joint: Selection = {"kind": "joint", "resolution": resolution, "steps": steps}
        records = _conditional(captured.matching(**joint))
        grid = _one_grid(records)
        n_text, columns = len(grid.text), None
    else:
        grid = _cross_grid(captured, resolution)
        there = (grid.rows, grid.columns)
        walked: Selection = {"kind": "self", "resolution": there, "steps": steps}
        looked: Selection = {"kind": "cross", "resolution": there, "steps": steps}
        records = _conditional(captured.matching(**walked))
        looking = _conditional(captured.matching(**looked))
        columns = _columns(looking, picture)
        n_text = len(columns)
    heads = [record.transition()[picture] for record in records]
    tokens = prompt_tokens(pipeline, prompt, n_text)
    return TextAttention(stored(mix(heads, weights)), grid, tokens, columns)


def _kinds(captured: CapturedAttention) -> set[str]:
    """Kinds of attention that were captured, some of it to text."""
    kinds = {record.site.kind for record in captured}
    if not kinds & {"joint", "cross"}:
        message = (
            f"no attention to text was captured, only {', '.join(sorted(kinds))}; "
            "capture a text-to-image pipeline with its joint attention, or with both "
            "cross- and self-attention"
        )
        raise SiteNotFoundError(message)
    return kinds


def _conditional(records: Sequence[AbstractRecord]) -> list[AbstractRecord]:
    """The side of guidance that saw the prompt; all where there is no guidance."""
    return [record for record in records if record.site.branch != "unconditional"]


def _one_grid(records: Sequence[AbstractRecord]) -> TokenGrid:
    grids = {record.grid for record in records}
    if len(grids) != 1:
        message = (
            f"records of {len(grids)} token layouts cannot be mixed; capture one size, "
            "or one run, at a time"
        )
        raise GridError(message)
    return grids.pop()


def _cross_grid(
    captured: CapturedAttention, resolution: tuple[int, int] | None
) -> TokenGrid:
    """The largest grid with both cross- and self-attention."""
    crossed = {r.grid for r in captured.matching(kind="cross", resolution=resolution)}
    walked = {r.grid for r in captured.matching(kind="self", resolution=resolution)}
    both = sorted(crossed & walked, key=lambda grid: grid.n_patches)
    if not both:
        message = (
            "cross- and self-attention were not captured at a common resolution: "
            f"{', '.join(map(str, crossed))} against {', '.join(map(str, walked))}"
        )
        raise SiteNotFoundError(message)
    return both[-1]


def _columns(
    records: Sequence[AbstractRecord], picture: int
) -> Float[Tensor, "text n"]:
    """Mean over heads of the cross-attention to each text token."""
    maps = torch.stack([r.probabilities()[picture].mean(0) for r in records])
    return maps.mean(0).mT
