"""Segments by words: walks from a word's tokens to the patches of a picture.

`text_attention` reads what `capture` kept of a diffusion model, `read_diffusion` runs
the model on a picture of one's own, `segment_words` lets words compete for pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attnchain.capturing import (
    AbstractRecord,
    CapturedAttention,
    TextTokens,
    TokenGrid,
    prompt_tokens,
)
from attnchain.errors import (
    GridError,
    ShapeError,
    SiteNotFoundError,
    WordNotFoundError,
)
from attnchain.maps import enlarge
from attnchain.markov import mix, propagate
from attnchain.markov.propagation import Direction
from attnchain.operators import AbstractTransition, Damped, stored

Weights = Literal["lambda2", "uniform"]
REST = "rest"


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
    """

    chain: AbstractTransition
    grid: TokenGrid
    tokens: TextTokens
    columns: Float[Tensor, "text n"] | None = None

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
            ShapeError: Fewer than one bounce, or an unknown direction.
        """
        if bounces != int(bounces) or bounces < 1:
            message = f"bounces must be a whole number >= 1, but is {bounces!r}"
            raise ShapeError(message)
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


@dataclass(frozen=True, eq=False)
class WordSegmentation:
    """A picture divided among words.

    Attributes:
        names: The words, then the background concepts; a single word without a
            competitor has "rest" beside it.
        background: Which of the names are background.
        maps: Where walkers from each word are, `(names, rows, columns)`, each map
            scaled to sum one. A word without a competitor has one map.
        shares: How much of a pixel belongs to each name, `(names, height, width)`,
            summing to one over the names.
        labels: Index into `names` of the largest share at every pixel.
    """

    names: tuple[str, ...]
    background: tuple[str, ...]
    maps: Float[Tensor, "words rows columns"]
    shares: Float[Tensor, "names height width"]
    labels: Int[Tensor, "height width"]

    def mask(self, name: str) -> Bool[Tensor, "height width"]:
        """Pixels that belong to a word or a background concept.

        Raises:
            ShapeError: It did not compete.
        """
        if name not in self.names:
            message = f"{name!r} did not compete; there are {', '.join(self.names)}"
            raise ShapeError(message)
        return self.labels == self.names.index(name)


def segment_words(
    attention: TextAttention,
    words: Sequence[str],
    *,
    background: Sequence[str] = (),
    bounces: int = 2,
    direction: Direction = "outgoing",
    damping: float = 0.99,
    size: tuple[int, int] | None = None,
) -> WordSegmentation:
    r"""Divides a picture among words of its prompt.

    With $m_w$ the walk from word w, scaled to sum one over the patches, the share of
    w at patch j is $m_w(j) / \sum_u m_u(j)$: how likely a walker found there came from
    w, when every word sent as many. A word alone has the pixels above the mean of its
    map; the rest is "rest".

    Args:
        attention: What `text_attention` or `read_diffusion` returned.
        words: Words or phrases of the prompt.
        background: Further ones that compete but are not asked for.
        bounces: See `TextAttention.walk`.
        direction: See `TextAttention.walk`.
        damping: See `TextAttention.walk`.
        size: Width and height of the label map; by default those of the patch grid.

    Returns:
        `WordSegmentation`.

    Raises:
        ShapeError: No words, a word twice, or a string instead of a list of words.
        WordNotFoundError: A word is not in the prompt.

    Sources:
        Multi-bounce: Erel et al., arXiv 2507.17657, n = 2. Competing background
        concepts, and score > mean for one word: Helbling et al., ConceptAttention,
        arXiv 2502.04320. The paper's direction is not published; "outgoing" at n = 1
        is the usual cross-attention map.
    """
    names = (*_listed(words, "words"), *_listed(background, "background"))
    if not words or len(set(names)) < len(names):
        message = f"give at least one word, and each only once; got {list(names)}"
        raise ShapeError(message)
    options: Any = {"direction": direction, "damping": damping}
    walks = torch.stack([attention.walk(w, bounces, **options) for w in names])
    maps = attention.grid.to_map(walks / walks.sum(-1, keepdim=True))
    width, height = size or (attention.grid.columns, attention.grid.rows)
    large = enlarge(maps, width=width, height=height)
    if len(names) == 1:
        names = (*names, REST)
        inside = (large > large.mean()).to(large.dtype)
        shares = torch.cat([inside, 1 - inside])
    else:
        shares = large / large.sum(0).clamp_min(torch.finfo(large.dtype).tiny)
    return WordSegmentation(names, tuple(background), maps, shares, shares.argmax(0))


def text_attention(
    captured: CapturedAttention,
    *,
    pipeline: Any,
    prompt: str,
    weights: Weights = "lambda2",
    resolution: tuple[int, int] | None = None,
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
        weights: "lambda2" or "uniform" over blocks, steps and heads, see `mix`;
            cross-attention, which is no chain, is always averaged uniformly.
        resolution: Rows and columns of the patch grid to read in a UNet; by default
            the largest that was captured.
        picture: Number of the picture in the batch.

    Returns:
        `TextAttention`.

    Raises:
        SiteNotFoundError: No attention to text was captured, or none at that
            resolution.
        GridError: Records of different token layouts cannot be mixed.
        UnsupportedModelError: The order of this pipeline's text tokens is not known.
        ShapeError: There is no such picture, or the weights are unknown.
    """
    kinds = {record.site.kind for record in captured}
    if not kinds & {"joint", "cross"}:
        message = (
            f"no attention to text was captured, only {', '.join(sorted(kinds))}; "
            "capture a text-to-image pipeline with its joint attention, or with both "
            "cross- and self-attention"
        )
        raise SiteNotFoundError(message)
    if "joint" in kinds:
        records = _conditional(captured.matching(kind="joint", resolution=resolution))
        grid = _one_grid(records)
        n_text, columns = len(grid.text), None
    else:
        grid = _cross_grid(captured, resolution)
        place = (grid.rows, grid.columns)
        records = _conditional(captured.matching(kind="self", resolution=place))
        looking = _conditional(captured.matching(kind="cross", resolution=place))
        columns = _columns(looking, picture)
        n_text = len(columns)
    heads = [record.transition()[picture] for record in records]
    tokens = prompt_tokens(pipeline, prompt, n_text)
    return TextAttention(stored(mix(heads, weights)), grid, tokens, columns)


def _listed(words: Sequence[str], name: str) -> tuple[str, ...]:
    if isinstance(words, str):
        message = f"{name} must be a list of words, but is the string {words!r}"
        raise ShapeError(message)
    return tuple(words)


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
