"""Which text tokens spell a word: positions by the tokenizer that made the sequence."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from attnchain.capturing.grid import TokenGrid
from attnchain.errors import UnsupportedModelError, WordNotFoundError

Span = tuple[int, int] | None


@dataclass(frozen=True)
class TextTokens:
    """A text and, for every token position, the characters it stands for.

    Attributes:
        text: The text that was tokenized.
        spans: First character and end for each position; None for special tokens and
            padding.

    Example:
        >>> tokens = TextTokens("a cat", (None, (0, 1), (1, 3), (3, 5), None))
        >>> tokens.find("cat")
        (2, 3)
    """

    text: str
    spans: tuple[Span, ...]

    @classmethod
    def of(
        cls, tokenizer: Any, text: str, *, length: int | None = None
    ) -> "TextTokens":
        """Tokenizes a text and keeps the characters of each token.

        Args:
            tokenizer: A fast tokenizer of transformers, or one of `tokenizers`. It
                must be the one whose sequence the attention saw: FLUX attends to
                T5's tokens, not to CLIP's.
            text: The text given to the model.
            length: Number of positions when the text was cut and padded to it.

        Raises:
            WordNotFoundError: The tokenizer does not tell characters (it is slow).
        """
        if hasattr(tokenizer, "encode_batch"):
            offsets = tokenizer.encode(text).offsets
        elif getattr(tokenizer, "is_fast", False):
            fixed = {"padding": "max_length", "truncation": True, "max_length": length}
            options = {} if length is None else fixed
            offsets = tokenizer(text, return_offsets_mapping=True, **options)[
                "offset_mapping"
            ]
        else:
            message = (
                f"{type(tokenizer).__name__} does not tell which characters a token "
                f"stands for; load the fast tokenizer of the same model"
            )
            raise WordNotFoundError(message)
        spans = [(start, end) if end > start else None for start, end in offsets]
        if length is not None:
            spans = (spans + [None] * length)[:length]
        return cls(text, tuple(spans))

    def __len__(self) -> int:
        return len(self.spans)

    @property
    def pieces(self) -> tuple[str, ...]:
        """Text of each position, empty for special tokens and padding."""
        return tuple("" if s is None else self.text[s[0] : s[1]] for s in self.spans)

    def find(
        self, word: str, *, grid: TokenGrid | None = None, occurrence: int | None = None
    ) -> tuple[int, ...]:
        """Returns the positions of all pieces of a word, upper or lower case alike.

        Args:
            word: A whole word or phrase of the text.
            grid: Layout of the sequence the text lies in, to get positions there;
                by default they are counted from the first text token.
            occurrence: Which occurrence to take, counted from 0; all by default.

        Raises:
            WordNotFoundError: The text does not hold the word so often, or the
                sequence ends before it.
        """
        pattern = rf"(?<!\w){re.escape(word.strip())}(?!\w)"
        places = [m.span() for m in re.finditer(pattern, self.text, re.IGNORECASE)]
        if occurrence is not None:
            places = places[occurrence : occurrence + 1] if occurrence >= 0 else []
        if not word.strip() or not places:
            nth = "" if occurrence is None else f" (occurrence {occurrence})"
            message = f"the word {word!r}{nth} is not in the text {self.text!r}"
            raise WordNotFoundError(message)
        found = tuple(
            position
            for position, span in enumerate(self.spans)
            if span is not None and any(span[0] < b and a < span[1] for a, b in places)
        )
        if not found:
            message = (
                f"the word {word!r} lies beyond the {len(self)} token positions the "
                f"model saw of the text"
            )
            raise WordNotFoundError(message)
        return found if grid is None else tuple(grid.text[i] for i in found)


def prompt_tokens(pipeline: Any, prompt: str, n_tokens: int) -> TextTokens:
    """Returns the text tokens that a diffusers pipeline attends to.

    Args:
        pipeline: The pipeline that was captured.
        prompt: The prompt it was given.
        n_tokens: Text positions of the sequence: `len(record.grid.text)` in joint
            attention, `len(record.key_grid.text)` in cross-attention.

    Raises:
        UnsupportedModelError: The order of this pipeline's text tokens is not known;
            make `TextTokens.of(tokenizer, prompt, length=...)` yourself.

    Sources:
        Stable Diffusion 3 puts CLIP's positions before T5's; FLUX.1 has T5's only.
    """
    name = type(pipeline).__name__
    if name not in PROMPTS:
        message = (
            f"the order of the text tokens of {name} is not known; known are "
            f"{', '.join(PROMPTS)}. Use TextTokens.of(tokenizer, prompt, length=...)"
        )
        raise UnsupportedModelError(message)
    return PROMPTS[name](pipeline, prompt, n_tokens)


def _only(name: str, prepare: Callable[[str], str] = str) -> Callable[..., TextTokens]:
    """All text tokens come from one tokenizer."""

    def tokens(pipeline: Any, prompt: str, n_tokens: int) -> TextTokens:
        tokenizer = getattr(pipeline, name)
        return TextTokens.of(tokenizer, prepare(prompt), length=n_tokens)

    return tokens


def _clip_then_t5(pipeline: Any, prompt: str, n_tokens: int) -> TextTokens:
    n_clip = pipeline.tokenizer_max_length
    clip = TextTokens.of(pipeline.tokenizer, prompt, length=n_clip)
    n_t5 = n_tokens - n_clip
    if pipeline.tokenizer_3 is None:
        return TextTokens(prompt, clip.spans + (None,) * n_t5)
    t5 = TextTokens.of(pipeline.tokenizer_3, prompt, length=n_t5)
    return TextTokens(prompt, clip.spans + t5.spans)


def _tidied(prompt: str) -> str:
    """The prompt as PixArt gives it to its tokenizer."""
    return prompt.lower().strip()


PROMPTS: dict[str, Callable[..., TextTokens]] = {
    "StableDiffusionPipeline": _only("tokenizer"),
    "StableDiffusionXLPipeline": _only("tokenizer"),
    "StableDiffusion3Pipeline": _clip_then_t5,
    "FluxPipeline": _only("tokenizer_2"),
    "PixArtAlphaPipeline": _only("tokenizer", _tidied),
    "PixArtSigmaPipeline": _only("tokenizer", _tidied),
}
