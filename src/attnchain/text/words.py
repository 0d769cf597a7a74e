"""Segments by words: walks from a word's tokens compete for the pixels of a picture."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.errors import ArgumentError
from attnchain.maps import enlarge
from attnchain.markov import Direction
from attnchain.text.prompt_attention import TextAttention
from attnchain.vision import Segmentation, figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL.Image import Image

REST = "rest"


@dataclass(frozen=True, eq=False, kw_only=True)
class WordSegmentation(Segmentation):
    """A picture divided among words.

    `names` are the words, then the background concepts; a single word without a
    competitor has "rest" beside it. `maps` are how much of a pixel belongs to each
    name, summing to one over the names; the largest share has the pixel.

    Attributes:
        attention: The chains it was read from.
        background: Which of the names are background.
        walks: Where walkers from each word are, `(words, rows, columns)`, each scaled
            to sum one. A word without a competitor has one.
    """

    kind: ClassVar[str] = "words"
    title: ClassVar[str] = "words"

    attention: TextAttention
    background: tuple[str, ...]
    walks: Float[Tensor, "words rows columns"]

    @property
    def maps(self) -> Float[Tensor, "names height width"]:
        height, width = self.labels.shape
        return _shares(self.walks, (width, height))

    @property
    def picture(self) -> "Image | None":
        return self.attention.picture

    @property
    def heading(self) -> str:
        return f"words of the prompt: {', '.join(self.names[: len(self.walks)])}"

    def panels(self) -> "list[Callable[[Axes], object]]":
        label = "times the mean patch"
        maps = [
            figures.one_map(walk / walk.mean(), title=name, label=label)
            for name, walk in zip(self.names, self.walks, strict=False)
        ]
        return maps if self.picture is None else [figures.picture(self.picture), *maps]

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "background": self.background}


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
        size: Width and height of the labels; by default those of the picture, or of
            the patch grid where the picture is not known.

    Returns:
        `WordSegmentation`.

    Raises:
        ArgumentError: No words, a word twice, or a string instead of a list of words.
        WordNotFoundError: A word is not in the prompt.

    Sources:
        Multi-bounce: Erel et al., arXiv 2507.17657, n = 2. Competing background
        concepts, and score > mean for one word: Helbling et al., ConceptAttention,
        arXiv 2502.04320. The paper's direction is not published; "outgoing" at n = 1
        is the usual cross-attention map.
    """
    names = all_words(words, background)
    options: Any = {"direction": direction, "damping": damping}
    walks = walks_from(attention, names, bounces=bounces, **options)
    shares = _shares(walks, size or _size(attention))
    return WordSegmentation(
        names=names if len(names) > 1 else (*names, REST),
        labels=shares.argmax(0),
        attention=attention,
        background=tuple(background),
        walks=walks,
    )


def walks_from(
    attention: TextAttention, words: Sequence[str], **options: Any
) -> Float[Tensor, "words rows columns"]:
    """Where walkers from each word are, each map scaled to sum one.

    Args:
        attention: What was read.
        words: Words or phrases of its text.
        **options: See `TextAttention.walk`.
    """
    found = torch.stack([attention.walk(word, **options) for word in words])
    return attention.grid.to_map(found / found.sum(-1, keepdim=True))


def all_words(words: Sequence[str], background: Sequence[str]) -> tuple[str, ...]:
    """The words that compete, those of the background last.

    Args:
        words: Words or phrases that are asked for.
        background: Further ones.

    Raises:
        ArgumentError: No words, a word twice, or a string instead of a list of words.
    """
    names = (*_listed(words, "words"), *_listed(background, "background"))
    if not words or len({" ".join(n.casefold().split()) for n in names}) < len(names):
        message = f"give at least one word, and each only once; got {list(names)}"
        raise ArgumentError(message)
    return names


def _size(attention: TextAttention) -> tuple[int, int]:
    if attention.picture is not None:
        return attention.picture.size
    return attention.grid.columns, attention.grid.rows


def _shares(
    walks: Float[Tensor, "words rows columns"], size: tuple[int, int]
) -> Float[Tensor, "names height width"]:
    """How much of a pixel belongs to each word, or to a single one and the rest."""
    large = enlarge(walks, width=size[0], height=size[1])
    if len(large) == 1:
        inside = (large > large.mean()).to(large.dtype)
        return torch.cat([inside, 1 - inside])
    return large / large.sum(0).clamp_min(torch.finfo(large.dtype).tiny)


def _listed(words: Sequence[str], name: str) -> tuple[str, ...]:
    if isinstance(words, str):
        message = f"{name} must be a list of words, but is the string {words!r}"
        raise ArgumentError(message)
    return tuple(words)
