"""Who said what: from words of an answer to the picture that it is about."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from attnchain.capturing import (
    AbstractRecord,
    CapturedAttention,
    TextTokens,
    TokenGrid,
    joined_passes,
)
from attnchain.checks import check_choice, check_whole
from attnchain.errors import (
    ArgumentError,
    GridError,
    SiteNotFoundError,
    WordNotFoundError,
)
from attnchain.language.word_in_picture import WordInPicture, map_of
from attnchain.markov import mix, starting_distribution
from attnchain.operators import AbstractTransition, is_causal, stored
from attnchain.readouts import sinks

if TYPE_CHECKING:
    from PIL.Image import Image

Part = Literal["all", "prompt", "answer"]
Sinks = Literal["drop", "keep"]
Weights = Literal["lambda2", "uniform"]
_TOWERS = ("vision", "visual")
"""In names of modules that see one picture, no words."""


@dataclass(frozen=True, eq=False)
class AnswerReading:
    """Self-attention among the words and pictures of a prompt and its answer.

    Positions count all tokens that the model read. States of the chain are those of
    `kept`: tokens that draw attention whatever is said are left out.

    Attributes:
        chain: All heads of all layers mixed.
        tokens: Characters of every token.
        grid: Where the pictures' patches lie among them.
        kept: Positions that are states of the chain.
        layers: Layer numbers, counted from 0.
        causal: Whether no token attends to a later one.
        n_prompt: How many tokens the prompt has; None where it is not known.
        treatment: What was done about sinks, in one sentence.
        pictures: The pictures, to draw over; empty where they were not given.
    """

    chain: AbstractTransition
    tokens: TextTokens
    grid: TokenGrid
    kept: tuple[int, ...]
    layers: tuple[int, ...]
    causal: bool
    n_prompt: int | None
    treatment: str
    pictures: "tuple[Image, ...]" = ()

    @property
    def dropped(self) -> tuple[int, ...]:
        """Positions of the tokens left out of the chain."""
        return tuple(sorted(set(range(self.grid.n_tokens)) - set(self.kept)))

    def where(
        self,
        word: str,
        bounces: int = 2,
        *,
        picture: int = 0,
        part: Part = "all",
        occurrence: int | None = None,
    ) -> WordInPicture:
        r"""Where in a picture walkers from a word arrive.

        They start evenly on the word's tokens, follow attention, and stay at the first
        picture token they reach: with Q the chain whose picture tokens step to
        themselves, the map is $v_0 Q^n$ on the picture. So a walk goes through words
        only, and not on to earlier patches, as causal attention inside a picture would.

        Args:
            word: A word or phrase, upper or lower case alike.
            bounces: Number n of bounces; 1 is the attention of the word itself.
            picture: Number of the picture in the prompt.
            part: "answer" or "prompt": where the word is looked for.
            occurrence: Which of several there, counted from 0; all by default.

        Raises:
            WordNotFoundError: The word is not there, was not read by the model, or is
                a sink that was left out.
            ArgumentError: There is no such picture, no bounce, or the word stands
                before all pictures in causal attention; or it is not known where the
                answer begins.
            GridError: It is a video.
        """
        check_whole(bounces, "bounces")
        views = self._views(picture)
        start = self._find(word, part, occurrence)
        states = [self.kept.index(place) for place in start]
        seen = [p for view in self.grid.views for p in view.positions]
        if self.causal and max(start) < min(seen):
            message = (
                f"{word!r} stands before the picture, and attention is causal: nothing "
                "of it can have come from there; ask for a word that comes after"
            )
            raise ArgumentError(message)
        arrived = self._arrived(states, bounces, seen)
        shares = torch.zeros(bounces, self.grid.n_tokens, dtype=torch.float64)
        shares[:, list(self.kept)] = arrived.double().cpu()
        found, own = map_of(shares, views)
        return WordInPicture(
            word=word,
            start=tuple(start),
            map=found[-1],
            reached=tuple(found.sum((-2, -1)).tolist()),
            views=own,
            layers=self.layers,
            treatment=self.treatment,
            picture=self.pictures[picture] if picture < len(self.pictures) else None,
        )

    def _arrived(self, states: list[int], bounces: int, seen: list[int]) -> Tensor:
        """Walkers that stay at picture tokens, after each bounce."""
        walker = starting_distribution(self.chain, states).to(self.chain.dtype)
        places = [state for state, place in enumerate(self.kept) if place in set(seen)]
        inside = torch.zeros_like(walker).index_fill(
            -1, torch.tensor(places, dtype=torch.long, device=walker.device), 1
        )
        arrived = torch.zeros_like(walker)
        every: list[Tensor] = []
        for _ in range(bounces):
            walker = self.chain.push(walker)
            arrived = arrived + walker * inside
            walker = walker * (1 - inside)
            every.append(arrived)
        return torch.stack(every)

    def _views(self, picture: int) -> list[TokenGrid]:
        """The grids of one picture."""
        numbers = sorted({view.picture for view in self.grid.views})
        if picture not in numbers:
            message = f"there is no picture {picture!r} in the prompt, only {numbers}"
            raise ArgumentError(message)
        views = [view for view in self.grid.views if view.picture == picture]
        if any(view.frames > 1 for view in views):
            message = f"picture {picture} is a video; give the frames as pictures"
            raise GridError(message)
        return views

    def _find(self, word: str, part: str, occurrence: int | None) -> list[int]:
        """Positions of a word in a part of the text."""
        check_choice(part, get_args(Part), "part")
        if part != "all" and self.n_prompt is None:
            message = (
                "it is not known where the answer begins: give read_answer n_prompt, "
                "the number of tokens of the prompt"
            )
            raise ArgumentError(message)
        length = len(self.tokens)
        border = self.n_prompt if self.n_prompt is not None else length
        inside = {"all": (0, length), "prompt": (0, border), "answer": (border, length)}
        places = range(*inside[part])
        found = [o for o in self._occurrences(word) if set(o) <= set(places)]
        if occurrence is not None:
            found = found[occurrence : occurrence + 1] if occurrence >= 0 else []
        if not found:
            nth = "" if occurrence is None else f" (occurrence {occurrence})"
            text = "".join(self.tokens.pieces[places.start : places.stop])
            message = f"the word {word!r}{nth} is not in the {part}: {text!r}"
            raise WordNotFoundError(message)
        return self._states_of(word, sorted({place for o in found for place in o}))

    def _occurrences(self, word: str) -> list[tuple[int, ...]]:
        """Positions of each occurrence of a word in the whole text."""
        every: list[tuple[int, ...]] = []
        try:
            while True:
                every.append(self.tokens.find(word, occurrence=len(every)))
        except WordNotFoundError:
            if not every:
                self.tokens.find(word)
        return every

    def _states_of(self, word: str, found: Sequence[int]) -> list[int]:
        """Positions of a word that are states of the chain."""
        read = [place for place in found if place < self.grid.n_tokens]
        if not read:
            message = (
                f"{word!r} is the end of the answer, which the model never read; give "
                "the whole text to one pass of the model, captured"
            )
            raise WordNotFoundError(message)
        own = [place for place in read if place in self.kept]
        if not own:
            message = f"{word!r} is a sink that was left out; read with sink='keep'"
            raise WordNotFoundError(message)
        return own


def read_answer(
    captured: CapturedAttention,
    ids: Sequence[int] | Tensor,
    *,
    tokenizer: Any,
    n_prompt: int | None = None,
    sink: Sinks = "drop",
    weights: Weights = "lambda2",
    pictures: "Sequence[Image]" = (),
) -> AnswerReading:
    """Reads how a vision-language model's words look at its pictures.

    Args:
        captured: What `capture` kept of `generate`, with its cache, or of one pass over
            prompt and answer. Names with "vision" or "visual" are left out.
        ids: Token numbers of the whole text, as `generate` returns it.
        tokenizer: That of the model.
        n_prompt: Tokens of the prompt; known by itself after `generate`.
        sink: "drop" leaves out the first token where attention is causal, and what
            `readouts.sinks` finds, words and patches; softmax again over the rest.
        weights: "lambda2" or "uniform" over layers and heads, see `mix`.
        pictures: To draw over, in the order of the prompt: as the model is shown them,
            cropped where the processor crops.

    Returns:
        `AnswerReading`; its `where` asks for a word.

    Raises:
        SiteNotFoundError: No attention of a language model was captured.
        GridError: There is no picture in the prompt, or its layout is not known.
        ArgumentError: The numbers of tokens do not fit, or there are several texts.
        CaptureError: The passes are no one text, see `capturing.joined_passes`.
    """
    check_choice(sink, get_args(Sinks), "sink")
    check_choice(weights, get_args(Weights), "weights")
    text = _numbers(ids)
    passes = _of_language(captured)
    records = joined_passes(passes)
    grid, n_first = _grid(records, len(text)), passes[0].shape[-2]
    whole = [record.chains()[0] for record in records]
    causal = all(is_causal(layer) for layer in whole)
    left_out = _left_out(whole, causal=causal) if sink == "drop" else set[int]()
    kept = torch.tensor([place not in left_out for place in range(grid.n_tokens)])
    heads = [record.chains(tokens=kept[None])[0] for record in records]
    tokens = TextTokens.of_ids(tokenizer, text)
    names = tokenizer.convert_ids_to_tokens(text)
    return AnswerReading(
        chain=stored(mix(heads, weights)),
        tokens=tokens,
        grid=grid,
        kept=tuple(kept.nonzero()[:, 0].tolist()),
        layers=tuple(record.site.layer for record in records),
        causal=causal,
        n_prompt=n_first if n_first < grid.n_tokens else n_prompt,
        treatment=_treatment(names, grid, left_out, causal=causal),
        pictures=tuple(pictures),
    )


def _numbers(ids: Sequence[int] | Tensor) -> list[int]:
    numbers = torch.as_tensor(ids)
    if numbers.ndim != 1:
        shape = tuple(numbers.shape)
        message = f"ids must be the numbers of one text, (n,), but are {shape}"
        raise ArgumentError(message)
    return [int(number) for number in numbers.tolist()]


def _of_language(captured: CapturedAttention) -> list[AbstractRecord]:
    """Self-attention, the towers' left out."""
    found = [
        record
        for record in captured.matching(kind="self")
        if not any(tower in record.site.name for tower in _TOWERS)
    ]
    if not found:
        message = "only vision towers were captured; capture the whole model"
        raise SiteNotFoundError(message)
    return found


def _grid(records: Sequence[AbstractRecord], length: int) -> TokenGrid:
    """The layout of the whole text, once all fits."""
    for record in records:
        n_inputs, _, n, _ = record.shape
        if n_inputs > 1:
            message = f"expected one text, but {record.site} read {n_inputs}"
            raise ArgumentError(f"{message}; run the model on one at a time")
        if not bool(record.live.all()):
            message = f"the text has padding at {record.site}; run the model without"
            raise ArgumentError(message)
        if n not in (length, length - 1):
            message = (
                f"ids are {length} tokens, but {record.site} read {n}: give the whole "
                "text, prompt included; or capture the language model alone, "
                "name='*language_model*'"
            )
            raise ArgumentError(message)
    grid = records[0].grid
    if not grid.n_patches:
        raise GridError(f"the model was given no picture: {grid}")
    return grid


def _left_out(layers: Sequence[AbstractTransition], *, causal: bool) -> set[int]:
    """Tokens that draw attention whatever is said."""
    found = {sink.token for sink in sinks(layers)}
    return found | {0} if causal else found


def _treatment(
    names: Sequence[str], grid: TokenGrid, left_out: set[int], *, causal: bool
) -> str:
    patches = {place for view in grid.views for place in view.positions}
    told = [
        f"a patch at {place}" if place in patches else f"{names[place]!r} at {place}"
        for place in sorted(left_out)
    ]
    left = f"left out as sinks: {', '.join(told)}" if told else "all tokens kept"
    return f"attention {'causal' if causal else 'both ways'}; {left}"
