"""Which text tokens spell a word: positions by the tokenizer that made the sequence."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from attnchain.capturing.grid import TokenGrid
from attnchain.errors import GridError, UnsupportedModelError, WordNotFoundError

Span = tuple[int, int] | None
WINDOW = 12
"""Tokens decoded together: spaces and characters depend on those just before."""
MOST_NAMED = 48
"""Words of a vocabulary that an error names; of a larger one none."""
UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""How the bytes of a character that further tokens will complete are decoded."""


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
            WordNotFoundError: The tokenizer does not tell characters (it is slow), or
                has no padding token where padding is needed.
        """
        if hasattr(tokenizer, "encode_batch"):
            offsets = tokenizer.encode(text).offsets
        elif getattr(tokenizer, "is_fast", False):
            offsets = _offsets(tokenizer, text, length)
        else:
            message = (
                f"{type(tokenizer).__name__} does not tell which characters a token "
                f"stands for; load the fast tokenizer of the same model, or use "
                f"TextTokens.of_ids"
            )
            raise WordNotFoundError(message)
        spans = [(start, end) if end > start else None for start, end in offsets]
        if length is not None:
            spans = (spans + [None] * length)[:length]
        return cls(text, tuple(spans))

    @classmethod
    def of_ids(cls, tokenizer: Any, ids: Iterable[int]) -> "TextTokens":
        """Reads the text back from the tokens that a model was given.

        So words are found in what a chat template or a processor of pictures made of
        a prompt. Special tokens stand for no characters; a space is put where words
        on both sides of them would run together.

        Args:
            tokenizer: Any tokenizer of transformers.
            ids: One sequence of token numbers: `input_ids[0]`.

        Example:
            >>> from attnchain.testing.models.tokenizers import t5_tokenizer
            >>> tokenizer = t5_tokenizer()
            >>> tokens = TextTokens.of_ids(tokenizer, tokenizer("a cat").input_ids)
            >>> tokens.text, tokens.find("cat")
            ('a cat', (2, 3))
        """
        numbers = [int(number) for number in ids]
        text = ""
        spans: list[tuple[int, int] | None] = []
        for k in range(1, len(numbers) + 1):
            window = numbers[max(0, k - WINDOW) : k]
            before, after = (
                tokenizer.decode(part, skip_special_tokens=True)
                for part in (window[:-1], window)
            )
            if after.endswith(UNFINISHED):
                continue
            new = after[len(before.rstrip(UNFINISHED)) :]
            if new and text and spans[-1] is None and not text[-1].isspace():
                text += " "
            span = (len(text), len(text) + len(new)) if new else None
            text += new
            spans += [span] * (k - len(spans))
        return cls(text, (*spans, *[None] * (len(numbers) - len(spans))))

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
                by default they are counted from the first text token. Where pictures
                lie among words, these must be the tokens of the whole sequence.
            occurrence: Which occurrence to take, counted from 0; all by default.

        Raises:
            WordNotFoundError: The text does not hold the word so often, or the
                sequence ends before it, or within it.
            GridError: The grid has no text, and is of another length.
        """
        pattern = rf"(?<!\w){re.escape(word.strip())}(?!\w)"
        places = [m.span() for m in re.finditer(pattern, self.text, re.IGNORECASE)]
        if occurrence is not None:
            places = places[occurrence : occurrence + 1] if occurrence >= 0 else []
        if not word.strip() or not places:
            nth = "" if occurrence is None else f" (occurrence {occurrence})"
            message = f"the word {word!r}{nth} is not in the text {self.text!r}"
            raise WordNotFoundError(message)
        end = max((span[1] for span in self.spans if span is not None), default=0)
        whole = [(a, b) for a, b in places if b <= end]
        found = tuple(
            position
            for position, span in enumerate(self.spans)
            if span is not None and any(span[0] < b and a < span[1] for a, b in whole)
        )
        places = range(len(self)) if grid is None else self._places(grid)
        inside = tuple(places[i] for i in found if i < len(places))
        if not inside:
            message = (
                f"the word {word!r} lies beyond the {len(places)} token positions the "
                f"model saw of the text"
            )
            raise WordNotFoundError(message)
        return inside

    def _places(self, grid: TokenGrid) -> range:
        """Positions of these tokens in the sequence of a grid."""
        if grid.text:
            return grid.text
        if len(self) == grid.n_tokens:
            return range(len(self))
        message = (
            f"{grid} hold no text of their own; give the {grid.n_tokens} tokens of the "
            f"whole sequence (TextTokens.of_ids), not {len(self)}"
        )
        raise GridError(message)


def _offsets(tokenizer: Any, text: str, length: int | None) -> list[tuple[int, int]]:
    """Characters of each token; a text is cut and padded to a length."""
    options: dict[str, Any] = {"verbose": False}
    if length is not None:
        padding = False if tokenizer.pad_token is None else "max_length"
        options |= {"padding": padding, "truncation": True, "max_length": length}
    offsets = tokenizer(text, return_offsets_mapping=True, **options)["offset_mapping"]
    if length is not None and len(offsets) != length:
        message = (
            f"{type(tokenizer).__name__} has no padding token to make {length} of "
            f"{len(offsets)} tokens; set tokenizer.pad_token to that of the model, or "
            f"leave length out"
        )
        raise WordNotFoundError(message)
    return offsets


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
    return PROMPTS[name].tokens(pipeline, prompt, n_tokens)


def check_known(pipeline: Any, words: Iterable[str]) -> None:
    """Refuses words that the model would read as its token for unknown ones.

    A word is known where one of the tokenizers that the attention sees spells it.
    Pipelines whose text tokens are not known are left to `prompt_tokens`.

    Args:
        pipeline: A diffusers pipeline.
        words: Words or phrases.

    Raises:
        WordNotFoundError: A word, or part of a phrase, is not in the vocabulary.
    """
    known = PROMPTS.get(type(pipeline).__name__)
    seen = [getattr(pipeline, name) for name in known.tokenizers] if known else []
    tokenizers = [tokenizer for tokenizer in seen if tokenizer is not None]
    parts = [part for word in words for part in word.split()] if tokenizers else []
    for part in parts:
        if all(_is_unknown(tokenizer, part) for tokenizer in tokenizers):
            message = f"the model has no token for {part!r} and would read it as"
            message += f" {tokenizers[0].unk_token}; {_known(tokenizers[0])}"
            raise WordNotFoundError(message)


def _is_unknown(tokenizer: Any, word: str) -> bool:
    unknown = getattr(tokenizer, "unk_token_id", None)
    ids = tokenizer(word, add_special_tokens=False, padding=False).input_ids
    return unknown is not None and unknown in ids


def _known(tokenizer: Any) -> str:
    """What can be asked for instead."""
    pieces = sorted(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens))
    if len(pieces) > MOST_NAMED:
        return "say it in other words"
    return f"it knows {', '.join(piece for piece in pieces if piece.isalpha())}"


@dataclass(frozen=True)
class PromptRule:
    """How a pipeline reads its prompt.

    Attributes:
        tokenizers: Its attributes whose tokens the attention sees.
        tokens: From the pipeline, a prompt and a length to the tokens.
    """

    tokenizers: tuple[str, ...]
    tokens: Callable[[Any, str, int], TextTokens]


def _only(name: str, prepare: Callable[[str], str] = str) -> PromptRule:
    """All text tokens come from one tokenizer."""

    def tokens(pipeline: Any, prompt: str, n_tokens: int) -> TextTokens:
        tokenizer = getattr(pipeline, name)
        return TextTokens.of(tokenizer, prepare(prompt), length=n_tokens)

    return PromptRule((name,), tokens)


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


PROMPTS: dict[str, PromptRule] = {
    "StableDiffusionPipeline": _only("tokenizer"),
    "StableDiffusionXLPipeline": _only("tokenizer"),
    "StableDiffusion3Pipeline": PromptRule(("tokenizer", "tokenizer_3"), _clip_then_t5),
    "FluxPipeline": _only("tokenizer_2"),
    "PixArtAlphaPipeline": _only("tokenizer", _tidied),
    "PixArtSigmaPipeline": _only("tokenizer", _tidied),
}
